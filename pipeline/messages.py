"""What travels between the clients' side and the experiment: the setup there, and reports back.

Updates of the shared weights are `spire_core.client`'s.
n, m: numbers of images, D: features, K: classes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from pipeline.config import Config
from spire_core.adapt import Adapted
from spire_core.partition import Partition


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker is given once beside all clients' images: the experiment, who holds which."""

    config: Config
    mixtures: np.ndarray  # (num clients, K) true class mixture of each client
    partition: Partition
    extractor: str
    folder: Path


@dataclass(frozen=True)
class Drawn:
    """Images generated as one client, as the evaluation needs them."""

    client_id: int
    features: Tensor  # (n, D)
    histogram: np.ndarray | None  # (K,)
    images: np.ndarray  # (m, C, H, W) float32, the first few


@dataclass(frozen=True)
class Losses:
    """Denoising loss on a client's test images: its own embedding, zero, and another client's."""

    client_id: int
    own: float
    zero: float | None
    swapped: float | None


@dataclass(frozen=True)
class AdaptReport:
    """What a new client tells about its adaptation; the embedding itself stays in its file."""

    client_id: int
    adapted: Adapted
    before: Drawn
    after: Drawn
    scores_after: dict[str, float]  # of the kept state, by the names of the curve's observations
    nn_train: float  # mean distance of generated images to the nearest training image
    nn_test: float  # the same to the nearest held-out image, over as many of them
    num_trained: int
    duration_s: float
