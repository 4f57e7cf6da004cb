"""The numbers that an experiment comes to: of rounds and epochs, of each new client, at the end."""

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.clients.memory import peak_bytes
from pipeline.config.federation import FederationConfig
from pipeline.federation.rounds import RoundStats
from pipeline.results.metric_names import final_name
from spire_core.adaptation.adapt import num_trained
from spire_core.evaluation.image_metrics import total_variation

if TYPE_CHECKING:
    from pipeline.federation.setup import Setting
    from pipeline.results.result import Result

IN_THE_TABLE_ALONE = {"client_id", "num_generated", "num_real", "subset_size", "num_trained"}
IN_THE_TABLE_ALONE |= {"kid_after_std", "kid_floor_std"}


def params_counts(setting: "Setting") -> tuple[int, int]:
    """Return how many numbers a client's whole model has, and how many a new client trains."""
    d_emb = setting.config.model.d_emb if setting.config.method.record.has_embedding else 0
    return setting.model.layout.size + d_emb, num_trained(setting.model, d_emb)


def round_metrics(
    stats: RoundStats, track_s: float, federation: FederationConfig
) -> dict[str, float]:
    """Return the tracked numbers of a round; `track_s`: how long recording the last one took.

    Those of the simulated failures are among them where `federation` asks for some.
    """
    scenario = {}
    if federation.drop_rate > 0:
        scenario["pretrain/absent"] = stats.num_absent
    if federation.straggler_rate > 0:
        scenario["pretrain/stragglers"] = stats.num_stragglers
    return scenario | {
        "pretrain/loss": stats.loss,
        "pretrain/dropped": stats.num_dropped,
        "time/round_s": stats.train_s + stats.aggregate_s,
        "time/train_s": stats.train_s,
        "time/aggregate_s": stats.aggregate_s,
        "time/dispatch_s": stats.dispatch_s,
        "time/idle_fraction": stats.idle_fraction,
        "time/track_s": track_s,
        "comm/up_bytes": stats.up_bytes,
        "comm/down_bytes": stats.down_bytes,
        "memory/rss_bytes": peak_bytes(),
    }


def summary_metrics(result: "Result") -> dict[str, float]:
    """Return the numbers that runs are compared by, taken at the end."""
    found: dict[str, float] = {}
    if result.evaluations:
        best = min(result.evaluations, key=lambda e: e.kid_mean)
        for name, value in result.evaluations[-1].metrics().items():
            found[final_name(name)] = value
        found |= {"best/kid_mean": best.kid_mean, "best/round": float(best.round_idx)}
        found["final/pretrain_kid_floor"] = result.real.floor_mean(result.setting.eval_ids)
    if result.tuned is not None:
        for name, value in result.tuned.metrics().items():
            found[final_name(name.replace("pretrain/", "pretrain/tuned/"))] = value
    table = new_clients_table(result)
    for key, values in table.items():
        known = [v for v in values if isinstance(v, int | float)]
        if known and key not in IN_THE_TABLE_ALONE:
            found[f"final/adapt_{key}"] = float(np.mean(known))
    if table:
        before, after = found["final/adapt_kid_before"], found["final/adapt_kid_after"]
        found["final/adapt_kid_ratio"] = after / before
        found["final/adapt_kid_worst"] = max(table["kid_after"])
    total, trained = params_counts(result.setting)
    found |= {
        "params/total": float(total),
        "params/trainable_new_client": float(trained),
        "params/trainable_fraction": trained / total,
    }
    return found


def adaptation_metrics(result: "Result") -> dict[int, dict[str, float]]:
    """Return, for each epoch of adaptation, the mean over new clients of every tracked number.

    Only epochs that all of them reached: clients may stop early, and a mean over those that are
    left would move without any of them moving.
    """
    by_epoch: dict[int, dict[str, list[float]]] = {}
    names = {
        "own_kid": "adapt/kid/mean",
        "tv": "adapt/tv/mean",
        "heldout_loss": "adapt/heldout/mean",
        "population_kid": "adapt/kid/population",
    }
    for report in result.reports:
        for point in report.curve:
            row = by_epoch.setdefault(point.epoch, {})
            for key, value in (point.observed or {}).items():
                if key in names:
                    row.setdefault(names[key], []).append(value)
                if key == "own_kid":
                    row.setdefault("adapt/kid/worst", []).append(value)
            if point.train_loss is not None:
                row.setdefault("adapt/train_loss", []).append(point.train_loss)
            if point.val_loss is not None:
                row.setdefault("adapt/val_loss", []).append(point.val_loss)
    for curve in result.curves:
        for name, key in (("own", "own"), ("lost", "global"), ("replaced", "replaced")):
            for epoch, value in zip(curve.epochs, getattr(curve, name) or (), strict=False):
                by_epoch[epoch].setdefault(f"forgetting/{key}", []).append(value)
    found = {
        epoch: {
            key: float(max(values) if key.endswith("worst") else np.mean(values))
            for key, values in row.items()
            if len(values) == len(result.reports)
        }
        for epoch, row in sorted(by_epoch.items())
    }
    return {epoch: row for epoch, row in found.items() if row}


def new_clients_table(result: "Result") -> dict[str, list[Any]]:
    """Return one row per new client, as columns."""
    rows = [new_client_row(result, i) for i in range(len(result.reports))]
    return {key: [row[key] for row in rows] for key in rows[0]} if rows else {}


def new_client_row(result: "Result", index: int) -> dict[str, Any]:
    """Return what is known of one new client, before its adaptation and as it was kept."""
    report, curve = result.reports[index], result.curves[index]
    first, kept = report.curve[0].observed or {}, report.scores_after
    floor = result.real.floors[report.client_id]
    mixture = result.real.mixtures[report.client_id]
    return {
        "client_id": report.client_id,
        "kid_before": first["own_kid"],
        "kid_after": kept["own_kid"],
        "kid_after_std": kept["own_kid_std"],
        "kid_floor": floor.mean,
        "kid_floor_std": floor.std,
        "num_generated": len(report.after.features),
        "num_real": len(result.real.features[report.client_id]),
        "subset_size": min(
            result.setting.config.eval.kid_subset_size,
            len(report.after.features),
            len(result.real.features[report.client_id]),
        ),
        "tv_before": first.get("tv"),
        "tv_after": kept.get("tv"),
        "tv_floor": _tv_floor(mixture, len(report.after.features), report.client_id),
        "heldout_before": first["heldout_loss"],
        "heldout_after": kept["heldout_loss"],
        "nn_train": report.nn_train,
        "nn_test": report.nn_test,
        "num_trained": report.num_trained,
        "kept_epoch": report.kept_epoch,
        "forgetting_own": curve.own[-1],
        "forgetting_global": None if curve.lost is None else curve.lost[-1],
        "forgetting_replaced": None if curve.replaced is None else curve.replaced[-1],
        "duration_s": report.duration_s,
    }


def _tv_floor(mixture: np.ndarray, num_images: int, client_id: int) -> float:
    """Return the distance that so many images drawn from the very mixture show, by chance alone."""
    draws = np.random.default_rng(client_id).multinomial(num_images, mixture, size=100) / num_images
    return float(np.mean([total_variation(d, mixture) for d in draws]))
