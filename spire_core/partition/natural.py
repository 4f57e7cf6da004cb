"""The partition of data whose clients exist: a folder, a writer, a font.

The name is that of Flower Datasets' natural-id partitioner. The clients of a run, and those among
them that are new, are chosen by name or drawn from the seed. Shapes: N images, A clients in the
data, of which M take part.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spire_core.config.checks import hint
from spire_core.config.partition import PartitionConfig
from spire_core.errors import ConfigError, DataError
from spire_core.partition.split import ClientSplit, Partition, split_held
from spire_core.rng import numpy_generator


@dataclass(frozen=True, eq=False)
class NaturalClients:
    """The owner of each image.

    `owner` (N,) int64 are positions in `names` (A,). `is_test` (N,) bool tells which images are
    held out; None leaves that to the partition. `arrives` (A,) bool tells which clients may only be
    new ones; None lets any client be one.
    """

    names: tuple[str, ...]
    owner: np.ndarray
    is_test: np.ndarray | None = None
    arrives: np.ndarray | None = None


@dataclass(frozen=True, eq=False)
class HeldBack:
    """Images that are never trained on, only measured with, two masks (N,) bool.

    `by_all` are held back by every client, `by_new` by new clients.
    """

    by_all: np.ndarray
    by_new: np.ndarray


def natural_partition(
    clients: NaturalClients,
    config: PartitionConfig,
    num_clients: int,
    num_new_clients: int,
    seed: int,
    new_num_images: int | None,
    held_back: HeldBack,
) -> Partition:
    """Return the images of `num_clients` clients and of `num_new_clients` new ones.

    The result depends on the arguments alone. Ids follow the order of the clients in the data. A
    client's test images are those of `is_test` or a random share, and the images that it holds
    back. A new client trains on at most `new_num_images` images (None = all), and the others are
    test images too, since each may be of a kind that it does not show. ConfigError for an
    unknown name in `config.new_clients`; DataError for too few clients, or a client with too few
    images.
    """
    old, new = _chosen(clients, config, num_clients, num_new_clients, seed)
    back_of_new = held_back.by_all | held_back.by_new
    order = np.argsort(clients.owner, kind="stable")
    bounds = np.searchsorted(clients.owner[order], np.arange(len(clients.names) + 1))
    splits = []
    for client_id, at in enumerate((*old, *new)):
        is_new = client_id >= num_clients
        own = order[bounds[at] : bounds[at + 1]]
        split = split_held(client_id, own, config.test_fraction, seed)
        train, test = split.train, split.test
        if clients.is_test is not None:
            own = np.concatenate([train, test])
            train, test = own[~clients.is_test[own]], own[clients.is_test[own]]
        is_back = (back_of_new if is_new else held_back.by_all)[train]
        train, test = train[~is_back], np.concatenate([test, train[is_back]])
        _check_sizes(clients.names[at], len(train), len(test), config)
        if is_new and new_num_images is not None:
            test = np.concatenate([test, train[new_num_images:]])
            train = train[:new_num_images]
        splits.append(ClientSplit(client_id, train, test))
    names = tuple(clients.names[at] for at in (*old, *new))
    return Partition(tuple(splits[:num_clients]), tuple(splits[num_clients:]), names=names)


def _chosen(
    clients: NaturalClients, config: PartitionConfig, num_clients: int, num_new: int, seed: int
) -> tuple[list[int], list[int]]:
    """Return the positions of the clients that take part, and of the new ones, each ascending."""
    order = numpy_generator(seed, "natural").permutation(len(clients.names)).tolist()
    names, arrives = clients.names, clients.arrives
    if config.new_clients:
        new = [_position(clients.names, name) for name in config.new_clients]
    else:
        new = [at for at in order if arrives is None or arrives[at]][:num_new]
    old = [at for at in order if at not in new and (arrives is None or not arrives[at])]
    if len(old) < num_clients or len(new) < num_new:
        fit_new = max(1, min(num_new, len(names) // 4)) if arrives is None else len(new)
        fit_old = max(1, min(num_clients, len(names) - fit_new if arrives is None else len(old)))
        fitting = f"federation.num_clients={fit_old} federation.num_new_clients={fit_new} "
        fitting += f"federation.cohort_size={min(fit_old, 4)}"
        raise DataError(
            f"expected data of {num_clients} clients and {num_new} new ones, got {len(old)} and "
            f"{len(new)} of {len(names)} in all ({', '.join(names[:9])}): type {fitting}"
        )
    return sorted(old[:num_clients]), sorted(new)


def _position(names: Sequence[str], name: str) -> int:
    """Return a client's position by its name, in whichever form Unicode writes its accents."""
    composed = [unicodedata.normalize("NFC", one) for one in names]
    if (same := unicodedata.normalize("NFC", name)) in composed:
        return composed.index(same)
    raise ConfigError(
        f"expected clients of the data, {', '.join(names):.200}, in partition.new_clients, "
        f"got {name!r}: {hint(name, names)}"
    )


def _check_sizes(name: str, num_train: int, num_test: int, config: PartitionConfig) -> None:
    """Raise DataError if a client has too few images, or none of one kind."""
    if num_train + num_test < config.min_size or not (num_train and num_test):
        raise DataError(
            f"expected at least {config.min_size} images (partition.min_size) of client {name!r}, "
            f"some to train on and some to test with, got {num_train} and {num_test}: add some, "
            "or leave the client out of the data"
        )
