"""Who holds which images: splits a labelled data set over clients, without overlap.

The schemes carry the names and meanings of Flower Datasets' partitioners. Pre-training clients
and new clients are drawn alike, in one split, so that a new client has a class mixture of its own
and no image of anybody else's. Shapes: N images, K classes, M clients (old and new together).
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from spire_core.errors import ConfigError, DataError
from spire_core.partition_schemes import SCHEMES, Held
from spire_core.rng import numpy_generator


def _require(is_met: bool, expected: str, got: object, advice: str) -> None:
    if not is_met:
        raise ConfigError(f"expected {expected}, got {got}: {advice}")


@dataclass(frozen=True)
class PartitionConfig:
    """How images are split over clients; `alpha` and the `*_per_client` serve the schemes named."""

    name: str = "inner_dirichlet"  # iid, dirichlet, inner_dirichlet, pathological or shard
    alpha: float = 0.1  # dirichlet, inner_dirichlet: below 1 concentrated, far above 1 uniform
    classes_per_client: int = 2  # pathological
    shards_per_client: int = 2  # shard
    client_size: int | None = None  # iid, inner_dirichlet: images per client; None = equal share
    min_size: int = 20  # the fewest images a client may hold (train and test together)
    max_retries: int = 20  # fresh draws after a first one that left a client below min_size
    test_fraction: float = 0.25  # of each client's images

    def __post_init__(self) -> None:
        names = ", ".join(SCHEMES)
        _require(self.name in SCHEMES, f"partition.name among {names}", self.name, "choose one")
        is_positive = 0 < self.alpha < float("inf")
        _require(is_positive, "partition.alpha above 0 and finite", self.alpha, "use 0.1, say")
        is_inside = 0 < self.test_fraction < 1
        expected = "partition.test_fraction between 0 and 1"
        _require(is_inside, expected, self.test_fraction, "use 0.25, say")
        floors = {"classes_per_client": 1, "shards_per_client": 1, "min_size": 2, "max_retries": 0}
        for key, floor in floors.items():
            value = getattr(self, key)
            _require(value >= floor, f"partition.{key} of at least {floor}", value, "raise it")
        if self.client_size is not None:
            expected = f"no partition.client_size with {self.name}"
            takes_size = self.name in ("iid", "inner_dirichlet")
            _require(takes_size, expected, self.client_size, "use null, the scheme sets the sizes")
            expected = f"partition.client_size of at least partition.min_size ({self.min_size})"
            is_enough = self.client_size >= self.min_size
            _require(is_enough, expected, self.client_size, "raise it or lower min_size")


@dataclass(frozen=True, eq=False)
class ClientSplit:
    """One client's images as positions in the data set: two disjoint int64 arrays, random order."""

    client_id: int
    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True, eq=False)
class Partition:
    """Who holds what: ids count from 0 over `train_clients` and go on over `new_clients`."""

    train_clients: tuple[ClientSplit, ...]
    new_clients: tuple[ClientSplit, ...]

    def class_counts(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        """Return how many images (train and test) of each class a client has, (M, K) int64."""
        clients = self.train_clients + self.new_clients
        held = [labels[np.concatenate([c.train, c.test])] for c in clients]
        return np.stack([np.bincount(h, minlength=num_classes) for h in held]).astype(np.int64)

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) over all roles, ids and indices in order; the same on every platform."""
        digest = hashlib.sha256()
        for is_new, clients in enumerate((self.train_clients, self.new_clients)):
            for client in clients:
                header = [is_new, client.client_id, len(client.train), len(client.test)]
                for part in (header, client.train, client.test):
                    digest.update(np.asarray(part, dtype="<i8").tobytes())
        return digest.hexdigest()


def class_mixture(labels: np.ndarray, indices: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the share of each class among `indices`, (K,) float64; DataError if there are none."""
    if len(indices) == 0:
        raise DataError("expected images to take a class mixture of, got none: pass some indices")
    return np.bincount(labels[indices], minlength=num_classes) / len(indices)


def make_partition(
    labels: np.ndarray,
    num_classes: int,
    config: PartitionConfig,
    num_clients: int,
    num_new_clients: int,
    seed: int,
    new_num_images: int | None = None,
) -> Partition:
    """Return a disjoint split of the images with labels (N,) over the clients and the new clients.

    A function of its arguments alone. Every image is dealt out, except with `client_size` (the rest
    stays unused) and where the pathological clients are too few to hold every class. A new client
    trains on `new_num_images` of its train part (None = all; all as well if it holds fewer), and
    nothing else depends on that number. ConfigError: settings out of range; DataError: labels that
    are no class indices, too few images, or `max_retries` draws with a client below `min_size`.
    """
    _require(num_clients >= 1, "at least 1 client", num_clients, "raise it")
    _require(num_new_clients >= 0, "at least 0 new clients", num_new_clients, "raise it")
    if new_num_images is not None:
        _require(new_num_images >= 1, "at least 1 image per new client", new_num_images, "use null")
    labels = _checked_labels(labels, num_classes)
    held = _draw_until_large_enough(labels, config, num_clients + num_new_clients, seed)
    splits = tuple(_split(i, h, config.test_fraction, seed) for i, h in enumerate(held))
    new = splits[num_clients:]
    cut = tuple(ClientSplit(s.client_id, s.train[:new_num_images], s.test) for s in new)
    return Partition(splits[:num_clients], cut)


def _checked_labels(labels: np.ndarray, num_classes: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.size == 0 or labels.dtype.kind not in "iu":
        got = f"{labels.dtype} of shape {labels.shape}"
        raise DataError(f"expected integer labels (N,), got {got}: pass one class per image")
    if labels.min() < 0 or labels.max() >= num_classes:
        got = f"{labels.min()} to {labels.max()}"
        raise DataError(f"expected labels from 0 to {num_classes - 1}, got {got}: correct them")
    return labels.astype(np.int64)


def _draw_until_large_enough(
    labels: np.ndarray, config: PartitionConfig, num: int, seed: int
) -> Held:
    smallest = 0
    for attempt in range(config.max_retries + 1):
        rng = numpy_generator(seed, "partition", attempt)
        held = SCHEMES[config.name](labels, config, num, rng)
        smallest = max(smallest, min(len(h) for h in held))
        if smallest >= config.min_size:
            return held
    raise DataError(
        f"expected at least {config.min_size} images for each of {num} clients, got {smallest} at "
        f"best in {config.max_retries + 1} draws: use fewer clients, a larger partition.alpha or a "
        "smaller partition.min_size"
    )


def _split(client_id: int, held: np.ndarray, test_fraction: float, seed: int) -> ClientSplit:
    shuffled = numpy_generator(seed, "split", client_id).permutation(np.sort(held))
    num_test = min(max(round(test_fraction * len(held)), 1), len(held) - 1)
    return ClientSplit(client_id, shuffled[num_test:], shuffled[:num_test])
