"""Clients that exist: every client keeps its own images, and nobody trains on a hidden one."""

from dataclasses import replace

import numpy as np
import pytest

from spire_core.config.partition import PartitionConfig
from spire_core.errors import ConfigError, DataError
from spire_core.partition.natural import HeldBack, NaturalClients, natural_partition
from spire_core.partition.split import Partition

NAMES = tuple("abcdefgh")
SIZES = (4, 6, 8, 10, 20, 40, 80, 160)
OWNER = np.random.default_rng(0).permutation(np.repeat(np.arange(8), SIZES))
CLIENTS = NaturalClients(NAMES, OWNER)
CONFIG = PartitionConfig("natural", min_size=4)
NOTHING = HeldBack(np.zeros(len(OWNER), bool), np.zeros(len(OWNER), bool))


def split(
    clients: NaturalClients = CLIENTS,
    config: PartitionConfig = CONFIG,
    seed: int = 0,
    num_clients: int = 5,
    num_new: int = 3,
    limit: int | None = None,
    held_back: HeldBack = NOTHING,
) -> Partition:
    return natural_partition(clients, config, num_clients, num_new, seed, limit, held_back)


def held(partition: Partition) -> dict[str, np.ndarray]:
    """The images of each client by its name."""
    clients = (*partition.train_clients, *partition.new_clients)
    return {partition.names[c.client_id]: np.sort([*c.train, *c.test]) for c in clients}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_client_keeps_its_own_images(seed: int) -> None:
    partition = split(seed=seed)
    assert set(held(partition)) == set(NAMES)
    for name, images in held(partition).items():
        np.testing.assert_array_equal(images, np.flatnonzero(NAMES.index(name) == OWNER))
    assert partition.client_ids == list(range(8))
    for kind in (partition.train_clients, partition.new_clients):
        names = [partition.names[client.client_id] for client in kind]
        assert names == sorted(names)  # in the order of the data
    assert list(partition.train_sizes) == [len(c.train) for c in partition.train_clients]


def test_the_hash_depends_on_seed_roles_images_and_names() -> None:
    hashes = [split(seed=seed).hash for seed in range(4)]
    assert hashes == [split(seed=seed).hash for seed in range(4)]
    renamed = split(replace(CLIENTS, names=(*NAMES[:-1], "z"))).hash
    moved = split(num_clients=4).hash
    assert len({*hashes, renamed, moved}) == 6


def test_new_clients_are_drawn_by_the_seed_whatever_the_number_of_the_others() -> None:
    def new(seed: int, num_clients: int) -> set[str]:
        partition = split(seed=seed, num_clients=num_clients)
        return {partition.names[client.client_id] for client in partition.new_clients}

    assert new(0, 5) == new(0, 2)
    assert len({frozenset(new(seed, 5)) for seed in range(8)}) > 3


def test_named_new_clients_are_these() -> None:
    config = replace(CONFIG, new_clients=("g", "b"))
    partition = split(config=config, num_clients=6, num_new=2)
    assert partition.names == tuple("acdefhbg")
    accented = replace(CLIENTS, names=(*NAMES[:-1], "jose\u0301"))
    named = split(accented, replace(CONFIG, new_clients=("jos\u00e9",)), num_new=1)
    assert named.names[-1] == "jose\u0301"  # another form of what looks the same
    with pytest.raises(ConfigError, match=r"partition\.new_clients, got 'x'"):
        split(config=replace(CONFIG, new_clients=("x",)), num_new=1)


def test_clients_that_only_arrive_never_pre_train() -> None:
    arrives = np.array([True, False] * 4)
    for seed in range(4):
        partition = split(replace(CLIENTS, arrives=arrives), seed=seed, num_clients=4)
        new = {partition.names[client.client_id] for client in partition.new_clients}
        assert new < set("aceg")
        assert set(partition.names) - new == set("bdfh")
    with pytest.raises(DataError, match="5 clients and 3 new ones, got 4 and 3"):
        split(replace(CLIENTS, arrives=arrives))


def test_a_given_split_is_kept_and_another_is_drawn_at_the_share() -> None:
    is_test = np.arange(len(OWNER)) % 3 == 0
    for client in split(replace(CLIENTS, is_test=is_test)).train_clients:
        assert is_test[client.test].all()
        assert not is_test[client.train].any()
    for client in split(config=replace(CONFIG, test_fraction=0.5)).train_clients:
        assert len(client.test) == len(client.train)


def test_a_client_with_too_few_images_is_named() -> None:
    is_test = (OWNER != 3) & (np.arange(len(OWNER)) % 2 == 0)
    with pytest.raises(DataError, match=r"client 'd', .* got 10 and 0"):
        split(replace(CLIENTS, is_test=is_test))
    with pytest.raises(DataError, match=r"at least 5 images .* client 'a', .* got 3 and 1"):
        split(config=replace(CONFIG, min_size=5))


def test_test_images_are_at_random_then_hidden_ones_then_those_beyond_the_limit() -> None:
    by_new, config = np.arange(len(OWNER)) % 2 == 0, replace(CONFIG, new_clients=("h",))
    whole, cut = (
        split(config=config, num_clients=7, num_new=1, limit=limit, held_back=held_back)
        for limit, held_back in ((None, NOTHING), (8, HeldBack(np.zeros_like(by_new), by_new)))
    )
    (all_own,), (new,) = whole.new_clients, cut.new_clients
    is_hidden = by_new[all_own.train]
    np.testing.assert_array_equal(new.train, all_own.train[~is_hidden][:8])
    beyond = all_own.train[~is_hidden][8:]
    parts = [all_own.test, all_own.train[is_hidden], beyond]
    np.testing.assert_array_equal(new.test, np.concatenate(parts))
    assert len(beyond) > 0
