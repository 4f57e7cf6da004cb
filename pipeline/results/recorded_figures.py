"""The pictures of an experiment in its tracking run: grids, histograms, curves."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.evaluation.forgetting import mean_over_clients
from pipeline.figures import image_grids
from pipeline.figures import plots as figures
from pipeline.tracking.tracker import Tracker

if TYPE_CHECKING:
    from pipeline.results.result import Result

GRID_CLIENTS = 4


def log_adaptation_figures(tracker: Tracker, result: "Result") -> None:
    """Write sample grids, class histograms, forgetting curves and the cross-client matrix."""
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
        picture = figures.matrix_figure(result.matrix, ids, ids, title)
        tracker.log_figure(picture, "plots/cross_client.png")
    if result.evaluations:
        series = {method: [(e.round_idx, e.kid_mean) for e in result.evaluations]}
        floor = result.real.floor_mean(setting.eval_ids)
        picture = figures.curve_figure(series, "round", "KID", "Pre-training clients", floor)
        tracker.log_figure(picture, "plots/pretrain_kid.png")


def draw_cross_losses(tracker: Tracker, losses: np.ndarray, client_ids: Sequence[int]) -> None:
    """Write held-out losses (m, m) of clients' data with each other's own parts."""
    names = [f"{c}" for c in client_ids]
    columns = {"data_of": names}
    columns |= {f"with_part_of_{n}": losses[:, j].tolist() for j, n in enumerate(names)}
    tracker.log_table("tables/cross_losses.json", columns)
    title, axes = (
        "Held-out loss with another client's part",
        ("own part of client", "data of client"),
    )
    picture = figures.matrix_figure(losses, names, names, title, "held-out loss", *axes, ".3g")
    tracker.log_figure(picture, "plots/cross_losses.png")


def client_rows(result: "Result", client_id: int) -> list[tuple[str, np.ndarray]]:
    """Return labelled rows of images: a client's own data, samples before and after adaptation."""
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
