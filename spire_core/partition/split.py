"""The partition of a labelled data set over clients, without overlap.

The schemes have the names and meanings of Flower Datasets' partitioners. Pre-training and new
clients are drawn in one split, so that a new client has its own class mixture and shares no image.
`independent` is for populations larger than any data set. There each client draws its images by
itself, when they are requested, and two clients may hold the same image. Shapes: N images,
K classes, M clients (old and new together).
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from spire_core.config.partition import INDEPENDENT, PartitionConfig
from spire_core.errors import DataError
from spire_core.partition.schemes import Held, draw_held, independent_images, of_each_class
from spire_core.rng import numpy_generator

NUM_SHOWN = 100  # clients of an independent partition that are hashed, shown, and cover new ones


@dataclass(frozen=True, eq=False)
class ClientSplit:
    """One client's images as positions in the data set: two disjoint int64 arrays.

    Both are in random order, but that two kinds of test images follow the others, each in random
    order (`natural`): those that a client holds back, then those beyond a new client's limit.
    """

    client_id: int
    train: np.ndarray
    test: np.ndarray


@dataclass(frozen=True, eq=False)
class Partition:
    """The images of each client; ids count from 0 over `train_clients`, then over `new_clients`.

    With a `rule`, each client's images are drawn by it when they are requested. The hash then
    covers the rule and the first clients, and only these are shown. `names`, by id, are those of
    clients that exist.
    """

    train_clients: Sequence[ClientSplit]
    new_clients: Sequence[ClientSplit]
    rule: str = ""
    names: tuple[str, ...] = ()

    def split(self, client_id: int) -> ClientSplit:
        """Return one client's images by its id."""
        if client_id < len(self.train_clients):
            return self.train_clients[client_id]
        return self.new_clients[client_id - len(self.train_clients)]

    def name_of(self, client_id: int) -> str | None:
        """Return the name of a client that exists, None of any other."""
        return self.names[client_id] if self.names else None

    @property
    def train_sizes(self) -> Sequence[int]:
        """The number of training images of each pre-training client."""
        if self.rule:  # by which all hold as many
            return [len(self.train_clients[0].train)] * len(self.train_clients)
        return [len(client.train) for client in self.train_clients]

    @property
    def client_ids(self) -> list[int]:
        """The ids of all clients, in order."""
        return [client.client_id for client in (*self.train_clients, *self.new_clients)]

    @property
    def shown(self) -> "Partition":
        """The clients that tables and figures show: all, or with a rule the first."""
        limit = NUM_SHOWN if self.rule else None
        return Partition(self.train_clients[:limit], self.new_clients[:limit], names=self.names)

    def class_counts(self, labels: np.ndarray, num_classes: int) -> np.ndarray:
        """Return how many images (train and test) of each class a client has, (M, K) int64."""
        clients = (*self.train_clients, *self.new_clients)
        held = [labels[np.concatenate([c.train, c.test])] for c in clients]
        return np.stack([np.bincount(h, minlength=num_classes) for h in held]).astype(np.int64)

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex), the same everywhere, of a rule, and of roles, images and names shown."""
        digest, shown = hashlib.sha256(self.rule.encode()), self.shown
        for is_new, clients in enumerate((shown.train_clients, shown.new_clients)):
            for client in clients:
                header = [is_new, client.client_id, len(client.train), len(client.test)]
                for part in (header, client.train, client.test):
                    digest.update(np.asarray(part, dtype="<i8").tobytes())
        if self.names:
            digest.update(json.dumps(self.names).encode())
        return digest.hexdigest()


def class_mixture(labels: np.ndarray, indices: np.ndarray, num_classes: int) -> np.ndarray:
    """Return the share of each class among `indices`, (K,) float64."""
    return np.bincount(labels[indices], minlength=num_classes) / len(indices)


def make_partition(
    labels: np.ndarray,
    config: PartitionConfig,
    num_clients: int,
    num_new_clients: int,
    seed: int,
    new_num_images: int | None = None,
) -> Partition:
    """Return a disjoint split of the images with labels (N,) over the clients and the new clients.

    The result depends on the arguments alone. Every image is dealt out, with two exceptions: images
    beyond `client_size`, and classes that too few pathological clients can hold. With the scheme
    `independent` only a client's own images are disjoint. A new client trains on at most
    `new_num_images` of its training images (None = all); nothing else depends on that number.
    Raises ConfigError for more classes of a client than there are, and DataError for too few
    images, or a client below `min_size` in each draw of the split.
    """
    if config.name == INDEPENDENT:
        return _independent(labels, config, num_clients, num_new_clients, seed, new_num_images)
    held = draw_held(labels, config, num_clients + num_new_clients, seed)
    if config.num_train_classes is not None:
        left = labels < config.num_train_classes
        left[np.concatenate([*held[num_clients:], np.empty(0, np.int64)])] = False
        positions = np.flatnonzero(left)
        few = draw_held(labels[positions], config, num_clients, seed)
        held = [*(positions[own] for own in few), *held[num_clients:]]
    splits = tuple(split_held(i, h, config.test_fraction, seed) for i, h in enumerate(held))
    new = splits[num_clients:]
    cut = tuple(ClientSplit(s.client_id, s.train[:new_num_images], s.test) for s in new)
    return Partition(splits[:num_clients], cut)


@dataclass(frozen=True, eq=False, repr=False)
class DrawnClients(Sequence[ClientSplit]):
    """Clients of the scheme `independent`, whose images are drawn on each access.

    A client's images are a function of the seed and its id. A client trains on at most `num_images`
    of them (None = all).
    """

    ids: range
    pools: Held
    config: PartitionConfig
    seed: int
    num_images: int | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Any) -> Any:
        """Return one client, or those of a slice."""
        ids = self.ids[index]
        return self.draw(ids) if isinstance(ids, int) else tuple(map(self.draw, ids))

    def draw(self, client_id: int) -> ClientSplit:
        """Return one client's images."""
        rng, config = numpy_generator(self.seed, "independent", client_id), self.config
        held = independent_images(self.pools, config.client_size or 0, config.alpha, rng)
        split = split_held(client_id, held, config.test_fraction, self.seed)
        return ClientSplit(client_id, split.train[: self.num_images], split.test)


def _independent(
    labels: np.ndarray,
    config: PartitionConfig,
    num_clients: int,
    num_new_clients: int,
    seed: int,
    new_num_images: int | None,
) -> Partition:
    pools, size = of_each_class(labels), config.client_size or 0
    smallest = min(len(pool) for pool in pools)
    if smallest < size:
        raise DataError(
            f"expected at least partition.client_size ({size}) images of each class, got "
            f"{smallest}: lower it"
        )
    all_ids = range(num_clients + num_new_clients)
    old, new = all_ids[:num_clients], all_ids[num_clients:]
    settings = [config.name, config.alpha, size, config.test_fraction, seed, len(old), len(new)]
    digest = hashlib.sha256(labels.astype("<i8").tobytes()).hexdigest()
    return Partition(
        DrawnClients(old, pools, config, seed),
        DrawnClients(new, pools, config, seed, new_num_images),
        json.dumps([*settings, new_num_images, digest]),
    )


def split_held(client_id: int, held: np.ndarray, test_fraction: float, seed: int) -> ClientSplit:
    """Return a client's images in random order, a share of them, at least one, held out."""
    shuffled = numpy_generator(seed, "split", client_id).permutation(np.sort(held))
    num_test = min(max(round(test_fraction * len(held)), 1), len(held) - 1)
    return ClientSplit(client_id, shuffled[num_test:], shuffled[:num_test])
