"""The partition of data whose clients exist: a folder, a writer, a font.

The name is that of Flower Datasets' natural-id partitioner. The clients of a run, and those among
them that are new, are chosen by name or drawn from the seed. Shapes: N images, A clients in the
data, of which M take part.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spire_core.config.checks import hint, require
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
    new_num_images: int | None = None,
    held_back: HeldBack | None = None,
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
    nothing = np.zeros(len(clients.owner), dtype=bool)
    held_back = held_back or HeldBack(nothing, nothing)
    back_of_new = held_back.by_all | held_back.by_new
    order = np.argsort(clients.owner, kind="stable")
    bounds = np.searchsorted(clients.owner[order], np.arange(len(clients.names) + 1))
    splits = []
    for client_id, at in enumerate((*old, *new)):
        own = order[bounds[at] : bounds[at + 1]]
        back = held_back.by_all if client_id < num_clients else back_of_new
        splits.append(_split(client_id, own, clients, clients.names[at], back, config, seed))
    new_splits = tuple(_shortened(split, new_num_images) for split in splits[num_clients:])
    names = tuple(clients.names[at] for at in (*old, *new))
    return Partition(tuple(splits[:num_clients]), new_splits, names=names)


def _shortened(split: ClientSplit, num_images: int | None) -> ClientSplit:
    """Return a client that trains on at most so many of its images; the others are held out."""
    if num_images is None:
        return split
    test = np.concatenate([split.test, split.train[num_images:]])
    return ClientSplit(split.client_id, split.train[:num_images], test)


def _chosen(
    clients: NaturalClients, config: PartitionConfig, num_clients: int, num_new: int, seed: int
) -> tuple[list[int], list[int]]:
    """Return the positions of the clients that take part, and of the new ones, each ascending."""
    order = numpy_generator(seed, "natural").permutation(len(clients.names)).tolist()
    arrives = clients.arrives
    if config.new_clients:
        new = [_position(clients.names, name) for name in config.new_clients]
        is_once, given = len({*new}) == len(new), list(config.new_clients)
        require(is_once, "different entries of partition.new_clients", given, "drop one")
    else:
        new = [at for at in order if arrives is None or arrives[at]][:num_new]
    taken = set(new)
    old = [at for at in order if at not in taken and (arrives is None or not arrives[at])]
    old = old[:num_clients]
    if len(old) < num_clients or len(new) < num_new:
        got = f"{len(old)} and {len(new)}"
        got = f"{len(clients.names)} clients in all" if arrives is None else got
        raise DataError(
            f"expected data of {num_clients} clients and {num_new} new ones, got {got}: lower "
            "federation.num_clients or federation.num_new_clients"
        )
    return sorted(old), sorted(new)


def _position(names: Sequence[str], name: str) -> int:
    """Return a client's position by its name, in whichever form Unicode writes its accents."""
    if name in names:
        return names.index(name)
    composed = [unicodedata.normalize("NFC", one) for one in names]
    if (same := unicodedata.normalize("NFC", name)) in composed:
        return composed.index(same)
    raise ConfigError(
        f"expected clients of the data in partition.new_clients, got {name!r}: {hint(name, names)}"
    )


def _split(
    client_id: int,
    own: np.ndarray,
    clients: NaturalClients,
    name: str,
    back: np.ndarray,
    config: PartitionConfig,
    seed: int,
) -> ClientSplit:
    """Return a client's training and test images; DataError if there are too few."""
    if len(own) < config.min_size:
        raise DataError(
            f"expected at least {config.min_size} images of client {name!r}, got {len(own)}: "
            "lower partition.min_size, or leave the client out of the data"
        )
    split = split_held(client_id, own, config.test_fraction, seed)
    if clients.is_test is not None:
        shuffled = np.concatenate([split.train, split.test])
        is_test = clients.is_test[shuffled]
        split = ClientSplit(client_id, shuffled[~is_test], shuffled[is_test])
    hidden = split.train[back[split.train]]
    split = ClientSplit(
        client_id, split.train[~back[split.train]], np.concatenate([split.test, hidden])
    )
    for kind, images in (("training", split.train), ("test", split.test)):
        if len(images) == 0:
            raise DataError(
                f"expected {kind} images of client {name!r}, got none: add some, or leave the "
                "client out of the data"
            )
    return split
