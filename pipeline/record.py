"""What an experiment writes into its tracking run, step by step: the only list of tags, metrics and artifacts.

Per-client values go into tables; the metrics stay few, and are the same for every method.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import figures, image_grids
from pipeline.evaluation import Evaluation, RealData
from pipeline.forgetting import mean_over_clients
from pipeline.runs import git_revision
from pipeline.tracking import Tracker
from spire_core.adapt import num_trained
from spire_core.extractor import make_extractor
from spire_core.metrics import total_variation

if TYPE_CHECKING:
    from pipeline.experiment import Result, Setting

GRID_CLIENTS = 4


def params_counts(setting: "Setting") -> tuple[int, int]:
    """Return how many numbers a client's whole model has, and how many of them a new client trains."""
    d_emb = setting.config.model.d_emb if setting.config.method.record.has_embedding else 0
    return setting.model.layout.size + d_emb, num_trained(setting.model, d_emb)


def run_tags(setting: "Setting", preset: str | None) -> dict[str, str]:
    """Return the tags that a run is found and filtered by."""
    config = setting.config
    extractor = make_extractor(setting.extractor, config.eval.extractor_weights)
    return {
        "method": config.method.name,
        "dataset": config.data.name,
        "preset": preset or "none",
        "seed": str(config.seed),
        "partition_hash": setting.partition.hash,
        "config_fingerprint": config.fingerprint,
        "extractor": extractor.name,
        "extractor_hash": extractor.weights_hash,
        "git_revision": git_revision() or "unknown",
    }


def log_setting(tracker: Tracker, setting: "Setting") -> None:
    """Write what is known before the first round: parameters, resolved configuration, data, partition."""
    config, data = setting.config, setting.data
    tracker.log_params(_flat_params(config.as_dict()))
    tracker.log_dict(config.as_dict(), "config/resolved.yaml")
    tracker.log_dataset(
        data.images, data.labels, data.name, data.sha256, "pre-training and adaptation"
    )
    counts = setting.partition.class_counts(data.labels, len(data.class_names))
    picture = figures.partition_figure(counts, data.class_names, len(setting.train_ids))
    tracker.log_figure(picture, "plots/partition.png")


def _flat_params(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat_params(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return {k: v for k, v in flat.items() if not k.startswith(("tracking.", "data.root"))}


def log_evaluation(tracker: Tracker, evaluation: Evaluation, real: RealData) -> None:
    """Write one evaluation of the pre-training clients: few metrics, one table, one image grid."""
    floor = {"pretrain/kid/floor": real.floor_mean(evaluation.client_ids)}
    tracker.log_metrics(evaluation.metrics() | floor, step=evaluation.round_idx)
    tracker.log_table(f"tables/pretrain_round_{evaluation.round_idx}.json", evaluation.table(real))
    images = np.concatenate([d.images[:8] for d in evaluation.drawn[:8]])
    tracker.log_image("samples/pretrain", image_grids.image_grid(images, 8), evaluation.round_idx)


def log_adaptation(tracker: Tracker, result: "Result") -> None:
    """Write what the new clients told: curves over epochs, forgetting, tables, and their sample grids."""
    for epoch, metrics in adaptation_metrics(result).items():
        tracker.log_metrics(metrics, step=epoch)
    tracker.log_table("tables/new_clients.json", new_clients_table(result))
    log_adaptation_figures(tracker, result)


def adaptation_metrics(result: "Result") -> dict[int, dict[str, float]]:
    """Return, for each epoch of adaptation, the mean over new clients of every tracked number."""
    by_epoch: dict[int, dict[str, list[float]]] = {}
    names = {
        "own_kid": "adapt/kid/mean",
        "tv": "adapt/tv/mean",
        "heldout_loss": "adapt/heldout/mean",
        "population_kid": "adapt/kid/population",
    }
    for report in result.reports:
        for point in report.adapted.curve:
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
    return {
        epoch: {k: float(max(v) if k.endswith("worst") else np.mean(v)) for k, v in row.items()}
        for epoch, row in sorted(by_epoch.items())
    }


def new_clients_table(result: "Result") -> dict[str, list[Any]]:
    """Return one row per new client, as columns."""
    rows = [new_client_row(result, i) for i in range(len(result.reports))]
    return {key: [row[key] for row in rows] for key in rows[0]} if rows else {}


def new_client_row(result: "Result", index: int) -> dict[str, Any]:
    """Return what is known of one new client, before its adaptation and at the epoch that was kept."""
    report, curve = result.reports[index], result.curves[index]
    looked = [p for p in report.adapted.curve if p.observed is not None]
    first = looked[0].observed or {}
    kept = min(looked, key=lambda p: abs(p.epoch - report.adapted.kept_epoch)).observed or {}
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
        "subset_size": min(len(report.after.features), len(result.real.features[report.client_id])),
        "tv_before": first.get("tv"),
        "tv_after": kept.get("tv"),
        "tv_floor": _tv_floor(mixture, len(report.after.features), report.client_id),
        "heldout_before": first["heldout_loss"],
        "heldout_after": kept["heldout_loss"],
        "nn_train": report.nn_train,
        "nn_test": report.nn_test,
        "num_trained": report.num_trained,
        "kept_epoch": report.adapted.kept_epoch,
        "forgetting_own": curve.own[-1],
        "forgetting_global": None if curve.lost is None else curve.lost[-1],
        "forgetting_replaced": None if curve.replaced is None else curve.replaced[-1],
        "duration_s": report.duration_s,
    }


def _tv_floor(mixture: np.ndarray, num_images: int, client_id: int) -> float:
    """Return the distance that so many images drawn from the very mixture would show, by chance alone."""
    draws = np.random.default_rng(client_id).multinomial(num_images, mixture, size=100) / num_images
    return float(np.mean([total_variation(d, mixture) for d in draws]))


def log_adaptation_figures(tracker: Tracker, result: "Result") -> None:
    """Write sample grids of every new client, class histograms, forgetting curves and the cross-client matrix."""
    setting, method = result.setting, result.setting.config.method.name
    for report in result.reports[:GRID_CLIENTS]:
        grid = image_grids.labelled_grids(client_rows(result, report.client_id), columns=16)
        tracker.log_figure(grid, f"samples/client_{report.client_id}.png")
        if report.after.histogram is not None and report.before.histogram is not None:
            rows = {
                "true mixture": result.real.mixtures[report.client_id].tolist(),
                "generated before": report.before.histogram.tolist(),
                "generated after": report.after.histogram.tolist(),
            }
            title = f"Client {report.client_id}: class mixture"
            picture = figures.histogram_figure(rows, setting.data.class_names, title)
            tracker.log_figure(picture, f"plots/mixture_client_{report.client_id}.png")
        after = image_grids.image_grid(report.after.images, 8)
        tracker.log_image(f"samples/new_client_{report.client_id}", after, step=0)
    if result.curves:
        own = {method: mean_over_clients(result.curves, "own")}
        lost = {method: mean_over_clients(result.curves, "lost")}
        replaced = mean_over_clients(result.curves, "replaced")
        if replaced:
            lost[f"{method}, adapted client alone"] = replaced
        picture = figures.forgetting_figure(own, lost, "Forgetting during adaptation")
        tracker.log_figure(picture, "plots/forgetting.png")
    if result.matrix is not None:
        ids = [f"{i}" for i in _matrix_ids(result)]
        tracker.log_table("tables/cross_client.json", _matrix_columns(result.matrix, ids))
        title = "KID of samples of one client against data of another"
        tracker.log_figure(figures.matrix_figure(result.matrix, ids, ids, title), "plots/cross_client.png")
    if result.evaluations:
        series = {method: [(e.round_idx, e.kid_mean) for e in result.evaluations]}
        floor = result.real.floor_mean(setting.eval_ids)
        picture = figures.curve_figure(series, "round", "KID", "Pre-training clients", floor)
        tracker.log_figure(picture, "plots/pretrain_kid.png")


def client_rows(result: "Result", client_id: int) -> list[tuple[str, np.ndarray]]:
    """Return labelled rows of images: the client's own data, samples before and after adaptation."""
    setting = result.setting
    split = {c.client_id: c for c in setting.partition.new_clients}[client_id]
    report = {r.client_id: r for r in result.reports}[client_id]
    return [
        (f"client {client_id}: its own images", setting.images[split.test[:16]]),
        ("drawn before adaptation", report.before.images[:16]),
        ("drawn after adaptation", report.after.images[:16]),
    ]


def _matrix_ids(result: "Result") -> list[int]:
    trained = result.evaluations[-1].client_ids if result.evaluations else ()
    return [*trained, *(r.client_id for r in result.reports)]


def _matrix_columns(matrix: np.ndarray, names: list[str]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {"samples_of": names}
    return columns | {f"data_of_{n}": matrix[:, j].tolist() for j, n in enumerate(names)}


def summary_metrics(result: "Result") -> dict[str, float]:
    """Return the numbers that runs are compared by, taken at the end."""
    found: dict[str, float] = {}
    if result.evaluations:
        best = min(result.evaluations, key=lambda e: e.kid_mean)
        for name, value in result.evaluations[-1].metrics().items():
            found[f"final/{name.replace('/', '_')}"] = value
        found |= {"best/kid_mean": best.kid_mean, "best/round": float(best.round_idx)}
        found["final/pretrain_kid_floor"] = result.real.floor_mean(result.setting.eval_ids)
    table = new_clients_table(result)
    for key, values in table.items():
        known = [v for v in values if isinstance(v, int | float)]
        if known and key not in ("client_id", "num_generated", "num_real", "subset_size"):
            found[f"final/adapt_{key}"] = float(np.mean(known))
    if table:
        found["final/adapt_kid_ratio"] = found["final/adapt_kid_after"] / found["final/adapt_kid_before"]
        found["final/adapt_kid_worst"] = max(table["kid_after"])
    total, trained = params_counts(result.setting)
    found |= {
        "params/total": float(total),
        "params/trainable_new_client": float(trained),
        "params/trainable_fraction": trained / total,
    }
    return found


def log_summary(tracker: Tracker, result: "Result") -> None:
    """Write the final numbers, the fingerprint of the final state, and the model."""
    result.metrics = summary_metrics(result)
    tracker.log_metrics(result.metrics, step=result.setting.config.federation.num_rounds)
    tracker.log_tags({"state_fingerprint": result.state_fingerprint})
    shape = result.setting.images.shape[1:]
    tracker.log_model(result.run_dir / "model", shape, result.setting.config.eval.guidance)
