"""The sheet of prompts: what new clients show, and for prompts that they never showed, what is true
and what was drawn.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.federation.messages import AdaptReport
from pipeline.federation.setup import FederationSetup
from pipeline.figures.image_grids import image_grid
from pipeline.results.recorded_figures import prompts_to_show

SHOWN_COLUMNS, PROMPT_COLUMNS = 8, 20
GAP = 12  # pixels between parts


def prompt_sheet(setting: FederationSetup, reports: Sequence[AdaptReport]) -> np.ndarray:
    """Return a picture (H, W, 3) of uint8 with two lines per new client.

    On the left, in both lines, images that the client shows. On the right true images of prompts
    that it never showed, and below them the samples after adaptation, in the order of classes.
    """
    bands = [_band(setting, report) for report in reports]
    width = max(band.shape[1] for band in bands)
    space = np.full((GAP, width, 3), 255, np.uint8)
    parts = [part for band in bands for part in (_widened(band, width), space)]
    return np.concatenate(parts[:-1])


def _band(setting: FederationSetup, report: AdaptReport) -> np.ndarray:
    split = setting.partition.split(report.client_id)
    limit = max(len(client.train) for client in setting.partition.new_clients)
    columns = min(SHOWN_COLUMNS, -(-limit // 2))
    shown = image_grid(setting.images[split.train[: 2 * columns]], columns)
    at = prompts_to_show(setting, report, PROMPT_COLUMNS)
    true = setting.images[split.test[at % len(split.test)]]
    asked = [image_grid(images, len(at)) for images in (true, report.after.images[at])]
    right = np.concatenate([asked[0], asked[1][2:]])  # the padding between them once
    height = max(len(shown), len(right))
    left, right = (_heightened(part, height) for part in (shown, right))
    return np.concatenate([left, np.full((height, GAP, 3), 255, np.uint8), right], axis=1)


def _heightened(picture: np.ndarray, height: int) -> np.ndarray:
    more = height - len(picture)
    return np.pad(picture, ((0, more), (0, 0), (0, 0)), constant_values=255)


def _widened(picture: np.ndarray, width: int) -> np.ndarray:
    more = width - picture.shape[1]
    return np.pad(picture, ((0, 0), (0, more), (0, 0)), constant_values=255)
