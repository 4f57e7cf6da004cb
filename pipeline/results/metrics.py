"""The metrics of an experiment: of rounds and epochs, of each new client, at the end."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.evaluation.scores import Evaluation, RealData
from pipeline.federation.messages import OTHER
from pipeline.federation.rounds import RoundStats
from pipeline.federation.setup import FederationSetup
from pipeline.results.metric_names import (
    ADAPT_KID_WORST,
    ADAPT_SCORES,
    ADAPT_TRAIN_LOSS,
    ADAPT_VAL_LOSS,
    DELTA,
    DROPPED,
    EPSILON,
    FORGETTING,
    ROUND_S,
    TRAIN_LOSS,
    final_name,
    tuned_name,
)
from pipeline.results.new_client_rows import as_columns, new_client_rows
from pipeline.results.result import Adaptation
from spire_core.adaptation.adapt import AdaptPoint, num_trained

IN_THE_TABLE_ALONE = {"client_id", "num_generated", "num_real", "subset_size", "num_trained"}
IN_THE_TABLE_ALONE |= {"kid_after_std", "kid_floor_std"}
IN_THE_TABLE_ALONE |= {"fit_duration_s"}  # a tag has its mean
IN_THE_TABLE_ALONE |= {"epsilon", "delta", "noise_multiplier"}
IN_THE_TABLE_ALONE |= {"nn_share", "nn_chance", "nn_auc", "fld_gap"}  # their means are tags


def params_counts(setting: FederationSetup) -> tuple[int, int]:
    """Return how many parameters a client's whole model has, and how many a new client trains."""
    d_emb = setting.config.model.d_emb if setting.config.method.record.has_embedding else 0
    total = setting.model.layout.size + setting.model.num_frozen + d_emb
    return total, num_trained(setting.model, d_emb)


def round_metrics(stats: RoundStats, track_s: float) -> dict[str, float]:
    """Return the tracked metrics of a round; `track_s`: seconds that it took to record the last."""
    loss = {} if stats.loss is None else {TRAIN_LOSS: stats.loss}
    return loss | {
        DROPPED: stats.num_dropped,
        ROUND_S: stats.train_s + stats.aggregate_s,
        "time/train_s": stats.train_s,
        "time/aggregate_s": stats.aggregate_s,
        "time/dispatch_s": stats.dispatch_s,
        "time/idle_fraction": stats.idle_fraction,
        "time/track_s": track_s,
        "comm/up_bytes": stats.up_bytes,
        "comm/down_bytes": stats.down_bytes,
    }


def summary_metrics(
    setting: FederationSetup,
    real: RealData,
    evaluations: Sequence[Evaluation],
    tuned: Evaluation | None,
    adaptation: Adaptation,
) -> dict[str, float]:
    """Return the final metrics, by which runs are compared."""
    metrics: dict[str, float] = {}
    if evaluations:
        metrics |= {final_name(k): v for k, v in evaluations[-1].metrics().items()}
        best = min(evaluations, key=lambda e: e.kid_mean)
        if setting.has_features:
            metrics |= {"best/kid_mean": best.kid_mean, "best/round": float(best.round_idx)}
            metrics["final/pretrain_kid_floor"] = real.floor_mean(setting.eval_ids)
    if tuned is not None:
        metrics |= {tuned_name(k): v for k, v in tuned.metrics().items()}
    rows = new_client_rows(adaptation, real, setting.config.eval.kid_subset_size)
    metrics |= _new_client_means(as_columns(rows)) | privacy_metrics(adaptation)
    total, trained = params_counts(setting)
    return metrics | {
        "params/total": float(total),
        "params/trainable_new_client": float(trained),
        "params/trainable_fraction": trained / total,
    }


def privacy_metrics(adaptation: Adaptation) -> dict[str, float]:
    """Return an epsilon and a delta that hold for the images of every new client."""
    weakest = adaptation.weakest_guarantee
    return {} if weakest is None else {EPSILON: weakest.epsilon, DELTA: weakest.delta}


def _new_client_means(table: dict[str, list[Any]]) -> dict[str, float]:
    """Return means of scores that all new clients have; others would be over other clients."""
    if not table:
        return {}
    metrics = {}
    for column, values in table.items():
        is_whole = all(isinstance(v, int | float) for v in values)
        if is_whole and column not in IN_THE_TABLE_ALONE:
            metrics[f"final/adapt_{column}"] = float(np.mean(values))
    if "final/adapt_kid_after" in metrics:
        before, after = metrics["final/adapt_kid_before"], metrics["final/adapt_kid_after"]
        if before > 0:
            metrics["final/adapt_kid_ratio"] = after / before
        metrics["final/adapt_kid_worst"] = max(table["kid_after"])
    return metrics


def adaptation_metrics(adaptation: Adaptation) -> dict[int, dict[str, float]]:
    """Return, for each epoch of adaptation, the mean over new clients of every tracked number.

    Epochs that some client did not reach are left out: clients may stop early, and a mean over
    the others would move although none of them does.
    """
    by_epoch: dict[int, dict[str, list[float]]] = {}
    for report in adaptation.reports:
        for point in report.curve:
            row = by_epoch.setdefault(point.epoch, {})
            for name, value in _point_metrics(point).items():
                row.setdefault(name, []).append(value)
    for curve in adaptation.curves:
        for field, name in FORGETTING.items():
            for epoch, value in zip(curve.epochs, getattr(curve, field) or (), strict=False):
                by_epoch[epoch].setdefault(f"forgetting/{name}", []).append(value)
    means = {
        epoch: {
            name: float(max(values) if name == ADAPT_KID_WORST else np.mean(values))
            for name, values in row.items()
            if len(values) == len(adaptation.reports)
        }
        for epoch, row in sorted(by_epoch.items())
    }
    return {epoch: row for epoch, row in means.items() if row}


def _point_metrics(point: AdaptPoint) -> dict[str, float]:
    """Return one client's numbers after an epoch, by the names of the metrics."""
    observed = point.observed or {}
    metrics = {ADAPT_SCORES[key]: v for key, v in observed.items() if key in ADAPT_SCORES}
    others = {key: v for key, v in observed.items() if key.startswith(OTHER)}
    metrics |= {f"adapt/{key.removeprefix(OTHER)}/mean": v for key, v in others.items()}
    if "own_kid" in observed:
        metrics[ADAPT_KID_WORST] = observed["own_kid"]
    losses = {ADAPT_TRAIN_LOSS: point.train_loss, ADAPT_VAL_LOSS: point.val_loss}
    return metrics | {name: loss for name, loss in losses.items() if loss is not None}
