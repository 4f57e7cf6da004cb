"""The pictures of an experiment in its tracking run: grids, histograms, curves."""

from collections.abc import Sequence

import numpy as np

from pipeline.evaluation.forgetting import ForgettingCurve, mean_over_clients
from pipeline.evaluation.scores import CrossClientMatrix, Evaluation, RealData
from pipeline.federation.messages import AdaptReport
from pipeline.federation.setup import FederationSetup
from pipeline.figures import image_grids
from pipeline.figures import plots as figures
from pipeline.results.result import Adaptation
from pipeline.tracking.tracker import Tracker

GRID_CLIENTS, ROW_IMAGES = 4, 16


def log_adaptation_figures(
    tracker: Tracker, setting: FederationSetup, real: RealData, adaptation: Adaptation
) -> None:
    """Write sample grids, class histograms, forgetting curves and the cross-client matrix."""
    for report in adaptation.reports[:GRID_CLIENTS]:
        _log_client(tracker, setting, real, report)
    if adaptation.curves and setting.has_features:
        _log_forgetting(tracker, setting.config.method.name, adaptation.curves)
    if adaptation.cross_kid is not None:
        _log_cross_kid(tracker, adaptation.cross_kid)


def log_pretraining_figure(
    tracker: Tracker, setting: FederationSetup, real: RealData, evaluations: Sequence[Evaluation]
) -> None:
    """Write KID of the pre-training clients over the rounds."""
    if evaluations and setting.has_features:
        series = {setting.config.method.name: [(e.round_idx, e.kid_mean) for e in evaluations]}
        floor = real.floor_mean(setting.eval_ids)
        picture = figures.curve_figure(series, "round", "KID", "Pre-training clients", floor)
        tracker.log_figure(picture, "plots/pretrain_kid.png")


def log_cross_losses_figure(tracker: Tracker, losses: CrossClientMatrix) -> None:
    """Write held-out losses (m, m) of clients' data with each other's own parts."""
    names = [f"{c}" for c in losses.client_ids]
    columns = {"data_of": names}
    columns |= {f"with_part_of_{n}": losses.values[:, j].tolist() for j, n in enumerate(names)}
    tracker.log_table("tables/cross_losses.json", columns)
    title = "Held-out loss with another client's part"
    axes = ("own part of client", "data of client")
    picture = figures.matrix_figure(
        losses.values, names, names, title, "held-out loss", axes, ".3g"
    )
    tracker.log_figure(picture, "plots/cross_losses.png")


def client_rows(setting: FederationSetup, report: AdaptReport) -> list[tuple[str, np.ndarray]]:
    """Return labelled rows of images: a client's own data, samples before and after adaptation.

    With text, each sample was drawn for the caption of the client's own image above it, in the
    order of classes, and a row before these has the images that the client shows.
    """
    split = setting.partition.split(report.client_id)
    name, before, after = f"client {report.client_id}", report.before.images, report.after.images
    shown, own = list[tuple[str, np.ndarray]](), f"{name}: its own images"
    at = np.arange(min(ROW_IMAGES, len(after)))
    if setting.tokens is not None:
        shown = [(f"{name}: what it shows", setting.images[split.train[:ROW_IMAGES]])]
        own = "never shown: its own images"
        at = prompts_to_show(setting, report, ROW_IMAGES)
    return [
        *shown,
        (own, setting.images[split.test[at % len(split.test)]]),
        ("drawn before adaptation", before[at]),
        ("drawn after adaptation", after[at]),
    ]


def prompts_to_show(setting: FederationSetup, report: AdaptReport, limit: int) -> np.ndarray:
    """Return which of a client's drawn images to show, by class, at even distances at most."""
    num_drawn = len(report.after.images)
    held_out = setting.partition.split(report.client_id).test
    labels = setting.data.labels[held_out[np.arange(num_drawn) % len(held_out)]]
    order = np.argsort(labels, kind="stable")
    return order[np.linspace(0, num_drawn - 1, min(limit, num_drawn)).round().astype(int)]


def _log_client(
    tracker: Tracker, setting: FederationSetup, real: RealData, report: AdaptReport
) -> None:
    client_id, before, after = report.client_id, report.before, report.after
    grid = image_grids.labelled_grids(client_rows(setting, report), ROW_IMAGES)
    tracker.log_figure(grid, f"samples/client_{client_id}.png")
    if after.histogram is not None and before.histogram is not None:
        rows = {
            "true mixture": real.mixtures[client_id].tolist(),
            "generated before": before.histogram.tolist(),
            "generated after": after.histogram.tolist(),
        }
        title = f"Client {client_id}: class mixture"
        picture = figures.histogram_figure(rows, setting.data.class_names, title)
        tracker.log_figure(picture, f"plots/mixture_client_{client_id}.png")
    image = image_grids.image_grid(after.images, 8)
    tracker.log_image(f"samples/new_client_{client_id}", image, step=0)


def _log_forgetting(tracker: Tracker, method: str, curves: Sequence[ForgettingCurve]) -> None:
    own = {method: mean_over_clients(curves, "own")}
    lost = {method: mean_over_clients(curves, "lost")}
    replaced = mean_over_clients(curves, "replaced")
    if replaced:
        lost[f"{method}, adapted client alone"] = replaced
    picture = figures.forgetting_figure(own, lost, "Forgetting during adaptation")
    tracker.log_figure(picture, "plots/forgetting.png")


def _log_cross_kid(tracker: Tracker, kid: CrossClientMatrix) -> None:
    names = [f"{c}" for c in kid.client_ids]
    columns = {"samples_of": names}
    columns |= {f"data_of_{n}": kid.values[:, j].tolist() for j, n in enumerate(names)}
    tracker.log_table("tables/cross_client.json", columns)
    title = "KID of samples of one client against data of another"
    picture = figures.matrix_figure(kid.values, names, names, title)
    tracker.log_figure(picture, "plots/cross_client.png")
