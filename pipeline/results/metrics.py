"""The metrics of an experiment: of rounds and epochs, at the end; and the numbers that are tags."""

from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.scores import Evaluation, RealData
from pipeline.federation.messages import OTHER
from pipeline.federation.rounds import RoundStats
from pipeline.federation.setup import FederationSetup
from pipeline.results import metric_names as names
from pipeline.results.result import Adaptation, Pretraining
from pipeline.results.tables import (
    new_client_coverages,
    new_clients,
    pooled_p,
    pretraining_clients,
)
from spire_core.adaptation.adapt import AdaptPoint, num_trained

IN_THE_TABLE_ALONE = ["client_id", "num_generated", "num_real", "subset_size", "num_trained"]
IN_THE_TABLE_ALONE += ["kid_after_std", "kid_floor_std", "epsilon", "delta", "noise_multiplier"]
IN_THE_TABLE_ALONE += ["fit_duration_s", "nn_share", "nn_chance", "nn_auc"]  # tags
COVERED_TV = 0.05  # the hull TV of a client up to which it counts as covered


def params_counts(setting: FederationSetup) -> tuple[int, int]:
    """Return how many parameters a client's whole model has, and how many a new client trains."""
    num = setting.config.model.emb_size if setting.config.method.record.has_embedding else 0
    total = setting.model.layout.size + setting.model.num_frozen + num
    return total, num_trained(setting.model, num)


def round_metrics(stats: RoundStats, track_s: float) -> dict[str, float]:
    """Return the tracked metrics of a round; `track_s`: seconds that it took to record the last."""
    loss = {} if stats.loss is None else {names.TRAIN_LOSS: stats.loss}
    return loss | {
        names.DROPPED: stats.num_dropped,
        names.ROUND_S: stats.train_s + stats.aggregate_s,
        "time/train_s": stats.train_s,
        "time/aggregate_s": stats.aggregate_s,
        "time/dispatch_s": stats.dispatch_s,
        "time/idle_fraction": stats.idle_fraction,
        "time/track_s": track_s,
        "comm/up_bytes": stats.up_bytes,
        "comm/down_bytes": stats.down_bytes,
    }


def adaptation_metrics(adaptation: Adaptation) -> dict[int, dict[str, float]]:
    """Return, for each epoch of adaptation, the mean over new clients of every tracked number.

    Epochs that some client did not reach are left out: clients may stop early, and a mean over
    the others would move although none of them does.
    """
    by_client = [{p.epoch: _point_metrics(p) for p in one.curve} for one in adaptation.reports]
    for points, curve in zip(by_client, adaptation.curves, strict=False):
        by_epoch: dict[Any, Any] = curve.add_prefix("forgetting/").to_dict("index")
        for epoch, values in by_epoch.items():
            points[epoch] |= values
    metrics = {}
    for epoch in sorted(set.intersection(*map(set, by_client))) if by_client else []:
        known = pd.DataFrame([points[epoch] for points in by_client]).dropna(axis="columns")
        metrics[epoch] = {name: float(np.mean([*known[name]])) for name in known}
        if (kid := names.ADAPT_SCORES["own_kid"]) in known:
            metrics[epoch]["adapt/kid/worst"] = float(known[kid].max())
    return {epoch: found for epoch, found in metrics.items() if found}


def _point_metrics(point: AdaptPoint) -> dict[str, float]:
    """Return one client's numbers after an epoch, by the names of the metrics."""
    observed = point.observed or {}
    metrics = {
        names.ADAPT_SCORES[key]: v for key, v in observed.items() if key in names.ADAPT_SCORES
    }
    others = {key: v for key, v in observed.items() if key.startswith(OTHER)}
    metrics |= {f"adapt/{key.removeprefix(OTHER)}/mean": v for key, v in others.items()}
    losses = {"adapt/train_loss": point.train_loss, "adapt/val_loss": point.val_loss}
    return metrics | {name: loss for name, loss in losses.items() if loss is not None}


def summary_metrics(
    setting: FederationSetup,
    real: RealData,
    pretraining: Pretraining,
    tuned: Evaluation | None,
    adaptation: Adaptation,
) -> dict[str, float]:
    """Return the final metrics, by which runs are compared."""
    metrics: dict[str, float] = {}
    evaluations = pretraining.evaluations
    if evaluations:
        metrics |= {names.final_name(k): v for k, v in evaluations[-1].metrics().items()}
        best = min(evaluations, key=lambda e: e.kid_mean)
        if setting.has_features:
            metrics |= {"best/kid_mean": best.kid_mean, "best/round": float(best.round_idx)}
            metrics["final/pretrain_kid_floor"] = real.floor_mean(setting.eval_ids)
        old = pretraining_clients(evaluations[-1], real, pretraining.controls)
        known = old.reindex(columns=names.OLD_SCORES).dropna(axis="columns", how="all")
        metrics |= {f"final/pretrain_{name}": float(known[name].dropna().mean()) for name in known}
    if tuned is not None:
        metrics |= {names.tuned_name(k): v for k, v in tuned.metrics().items()}
    clients = new_clients(adaptation, real, setting.config.eval.kid_subset_size)
    metrics |= _new_client_means(clients) | privacy_metrics(adaptation)
    total, trained = params_counts(setting)
    return metrics | {
        "params/total": float(total),
        "params/trainable_new_client": float(trained),
        "params/trainable_fraction": trained / total,
    }


def _new_client_means(clients: pd.DataFrame) -> dict[str, float]:
    """Return means of scores that all new clients have; others would be over other clients."""
    known = clients.drop(columns=IN_THE_TABLE_ALONE, errors="ignore").dropna(axis="columns")
    metrics = {f"final/adapt_{name}": float(np.mean([*known[name]])) for name in known}
    if "kid_after" in known:
        before, after = metrics["final/adapt_kid_before"], metrics["final/adapt_kid_after"]
        if before > 0:
            metrics["final/adapt_kid_ratio"] = after / before
        metrics["final/adapt_kid_worst"] = float(known["kid_after"].max())
    return metrics


def privacy_metrics(adaptation: Adaptation) -> dict[str, float]:
    """Return an epsilon and a delta that hold for the images of every new client."""
    weakest = adaptation.weakest_guarantee
    return {} if weakest is None else {names.EPSILON: weakest.epsilon, names.DELTA: weakest.delta}


# --- tags -----------------------------------------------------------------------------------------


def coverage_tags(setting: FederationSetup) -> dict[str, str]:
    """Return how far new clients' class mixtures are from pre-training clients', on average."""
    found = new_client_coverages(setting)
    if not found:
        return {}
    hull, nearest = ([one.hull_tv for one in found], [one.nearest_tv for one in found])
    return {"world.hull_tv": f"{np.mean(hull):.4f}", "world.nearest_tv": f"{np.mean(nearest):.4f}"}


def copies_tags(adaptation: Adaptation, seed: int) -> dict[str, str]:
    """Return new clients' mean share, that of chance, and the p-value; empty without clients."""
    known = [one.neighbours for one in adaptation.reports if one.neighbours is not None]
    if not known:
        return {}
    means = fmean(one.share for one in known), fmean(one.chance for one in known)
    return dict(zip(names.COPIES_TAGS, map(repr, (*means, pooled_p(known, seed))), strict=True))


def image_tags(controls: pd.DataFrame, clients: pd.DataFrame) -> dict[str, str]:
    """Return precision and recall of the adapted models, and means over new clients.

    These are `fld_above_fresh` and `covered_ratio`.

    `controls` as of `image_controls`, `clients` as of `with_worlds`.
    """
    adapted, excess = controls.iloc[0], clients["fld_above_fresh"].dropna()
    means = fmean(excess) if len(excess) else None, covered_ratio(clients)
    named = zip(names.IMAGE_TAGS, (adapted["precision"], adapted["recall"], *means), strict=True)
    return {tag: repr(value) for tag, value in named if value is not None}


def covered_ratio(clients: pd.DataFrame) -> float | None:
    """Return the mean KID of new clients that pre-training clients cover by that of the others.

    None without clients of both kinds. 0 where the others score no KID above zero, which stands for
    no ratio: comparisons are of ratios alone, and refuse such a run in place of leaving it out for
    what it scored. All clients share a run's backbone and steps, so that between methods this ratio
    differs by what coverage does to each.
    """
    known = clients.reindex(columns=["hull_tv", "kid_after"]).dropna()
    is_covered = known["hull_tv"] <= COVERED_TV
    covered, others = known["kid_after"][is_covered], known["kid_after"][~is_covered]
    if covered.empty or others.empty:
        return None
    mean = fmean(others)
    return fmean(covered) / mean if mean > 0 else 0.0
