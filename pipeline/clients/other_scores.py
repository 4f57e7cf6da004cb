"""Scores of a new client's images by metrics that other packages bring."""

from collections.abc import Sequence

from torch import Tensor

from pipeline.clients.client_data import ClientData
from pipeline.federation.messages import OTHER
from pipeline.federation.other_metrics import score
from spire_core.training.fit import to_float


def other_scores(names: Sequence[str], client: ClientData, images: Tensor) -> dict[str, float]:
    """Return the scores of images (n, C, H, W) drawn as a client, by these metrics.

    DataError if a metric fails, or returns something else than a number.
    """
    if not names:
        return {}
    real = to_float(client.test_images())
    return {f"{OTHER}{name}": score(name, images.clone(), real.clone()) for name in names}
