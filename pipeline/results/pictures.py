"""The grids of images of an experiment."""

from collections.abc import Sequence

import numpy as np

from pipeline.federation.messages import AdaptReport
from pipeline.federation.setup import FederationSetup
from pipeline.figures.image_grids import image_grid, labelled_grids
from pipeline.results.result import Result

CLIENTS, COLUMNS = 4, 16  # of a grid of images
SHEET_CLIENTS, SHOWN_COLUMNS, PROMPT_COLUMNS = 8, 8, 20  # of the sheet of prompts
GAP = 12  # pixels between its parts


def samples_grid(result: Result) -> np.ndarray:
    """Return rows of images, each below its title, as a picture (H, W, 3) of uint8.

    Three rows per new client: its own images, samples before and after adaptation. Without new
    clients, one row of samples per pre-training client. With text, `prompt_sheet`.
    """
    setting, reports = result.setting, result.adaptation.reports
    if setting.tokens is not None and reports:
        return prompt_sheet(setting, reports[:SHEET_CLIENTS])
    rows = [row for one in reports[:CLIENTS] for row in client_rows(setting, one)]
    if not rows:
        drawn = result.pretraining.evaluations[-1].drawn[:CLIENTS]
        rows = [(f"drawn as {setting.label(one.client_id)}", one.images) for one in drawn]
    width = min(COLUMNS, min(len(images) for _, images in rows))
    return labelled_grids([(text, images[:width]) for text, images in rows], width)


def client_rows(setting: FederationSetup, report: AdaptReport) -> list[tuple[str, np.ndarray]]:
    """Return labelled rows of images: a client's own data, samples before and after adaptation.

    With text, each sample was drawn for the caption of the client's own image above it, in the
    order of classes, and a row before these has the images that the client shows.
    """
    split = setting.partition.split(report.client_id)
    name, before, after = setting.label(report.client_id), report.before.images, report.after.images
    shown, own = list[tuple[str, np.ndarray]](), f"{name}: its own images"
    at = np.arange(min(COLUMNS, len(after)))
    if setting.tokens is not None:
        shown = [(f"{name}: what it shows", setting.images[split.train[:COLUMNS]])]
        own = "never shown: its own images"
        at = prompts_to_show(setting, report, COLUMNS)
    return [
        *shown,
        (own, setting.images[split.test[at % len(split.test)]]),
        (f"{name}: drawn before adaptation", before[at]),
        (f"{name}: drawn after adaptation", after[at]),
    ]


def embedding_rows(setting: FederationSetup, report: AdaptReport) -> list[tuple[str, np.ndarray]]:
    """Return a labelled row of images drawn with each of several embeddings of a client.

    Before them, with the shares of its classes, the images that they were fitted to.
    """
    if not report.after.of_each:
        return []
    split, data = setting.partition.split(report.client_id), setting.data
    classes, counts = np.unique(data.labels[split.train], return_counts=True)
    shares = [
        f"{data.class_names[classes[k]]} {counts[k] / counts.sum():.2f}"
        for k in np.argsort(-counts, kind="stable")[:COLUMNS]
    ]
    return [
        (f"classes that it shows: {', '.join(shares)}", setting.images[split.train[:COLUMNS]]),
        *(
            (f"embedding {number}, weight {weight:.2f}", images)
            for number, (weight, images) in enumerate(report.after.of_each)
        ),
    ]


def prompts_to_show(setting: FederationSetup, report: AdaptReport, limit: int) -> np.ndarray:
    """Return which of a client's drawn images to show, by class, at even distances at most."""
    num_drawn = len(report.after.images)
    held_out = setting.partition.split(report.client_id).test
    labels = setting.data.labels[held_out[np.arange(num_drawn) % len(held_out)]]
    order = np.argsort(labels, kind="stable")
    return order[np.linspace(0, num_drawn - 1, min(limit, num_drawn)).round().astype(int)]


def prompt_sheet(setting: FederationSetup, reports: Sequence[AdaptReport]) -> np.ndarray:
    """Return a picture (H, W, 3) of uint8 with two lines per new client.

    On the left, in both lines, images that the client shows. On the right true images of prompts
    that it never showed, and below them the samples after adaptation, in the order of classes.
    """
    bands = [_band(setting, report) for report in reports]
    width = max(band.shape[1] for band in bands)
    space = np.full((GAP, width, 3), 255, np.uint8)
    parts = [part for band in bands for part in (_filled(band, len(band), width), space)]
    return np.concatenate(parts[:-1])


def _band(setting: FederationSetup, report: AdaptReport) -> np.ndarray:
    split = setting.partition.split(report.client_id)
    limit = max(len(client.train) for client in setting.partition.new_clients)
    columns = min(SHOWN_COLUMNS, -(-limit // 2))
    shown = image_grid(setting.images[split.train[: 2 * columns]], columns)
    at = prompts_to_show(setting, report, PROMPT_COLUMNS)
    true = image_grid(setting.images[split.test[at % len(split.test)]], len(at))
    drawn = image_grid(report.after.images[at], len(at))
    right = np.concatenate([true, drawn[2:]])  # the padding between them once
    height = max(len(shown), len(right))
    left = _filled(shown, height, shown.shape[1] + GAP)
    return np.concatenate([left, _filled(right, height, right.shape[1])], axis=1)


def _filled(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a picture with white below it and to its right."""
    more = height - len(picture), width - picture.shape[1]
    return np.pad(picture, ((0, more[0]), (0, more[1]), (0, 0)), constant_values=255)
