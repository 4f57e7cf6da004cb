"""Scores of a new client's images by metrics that other packages bring.

The entry point `spire.metrics` names a function `metric(drawn, real)` of float images in [-1, 1],
(n, C, H, W) drawn as the client and (m, C, H, W) that it holds out. It returns one number.
"""

from collections.abc import Sequence

from torch import Tensor

from pipeline.clients.client_data import ClientData
from pipeline.federation.messages import OTHER
from spire_core.config.eval import OTHER_METRICS
from spire_core.errors import DataError
from spire_core.training.fit import to_float


def other_scores(names: Sequence[str], client: ClientData, images: Tensor) -> dict[str, float]:
    """Return the scores of images (n, C, H, W) drawn as a client, by these metrics.

    DataError if a metric fails, or returns something else than a number.
    """
    if not names:
        return {}
    real = to_float(client.test_images())
    return {f"{OTHER}{name}": _score(name, images.clone(), real.clone()) for name in names}


def _score(name: str, drawn: Tensor, real: Tensor) -> float:
    plugin = OTHER_METRICS.find(name)
    if plugin is None:  # in a process where its package is not installed
        raise DataError(f"expected the package of the metric {name}, got none here: install it")
    try:
        return float(plugin.value(drawn, real))
    except Exception as error:  # a stranger's code can raise anything
        raise DataError(
            f"expected a number from the metric {name}, got {type(error).__name__} ({error}): mend "
            "its function"
        ) from error
