"""The splits: disjoint, complete, reproducible, and of the shape that each scheme promises."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from spire_core.config.partition import PartitionConfig
from spire_core.errors import ConfigError, DataError
from spire_core.partition.split import ClientSplit, Partition, class_mixture, make_partition

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 300))
SCHEMES = ["iid", "dirichlet", "inner_dirichlet", "pathological"]
SEEDS = [0, 1, 2]


def split(
    config: PartitionConfig, seed: int = 0, new_num_images: int | None = None, clients: int = 8
) -> Partition:
    return make_partition(LABELS, config, clients, 3, seed, new_num_images)


def held(partition: Partition) -> list[np.ndarray]:
    clients = partition.train_clients + partition.new_clients
    return [np.concatenate([c.train, c.test]) for c in clients]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", SCHEMES)
def test_every_image_is_dealt_out_exactly_once(name: str, seed: int) -> None:
    partition = split(PartitionConfig(name, alpha=0.5), seed)
    assert np.array_equal(np.sort(np.concatenate(held(partition))), np.arange(len(LABELS)))
    ids = [c.client_id for c in partition.train_clients + partition.new_clients]
    assert ids == list(range(11))
    assert len(partition.new_clients) == 3


@pytest.mark.parametrize("name", SCHEMES)
def test_a_split_is_a_function_of_the_seed(name: str) -> None:
    config = PartitionConfig(name, alpha=0.5)
    hashes = [split(config, seed).hash for seed in SEEDS]
    assert hashes == [split(config, seed).hash for seed in SEEDS]
    assert len(set(hashes)) == len(SEEDS)


def test_a_retry_gives_what_the_first_large_enough_draw_gives() -> None:
    first = split(PartitionConfig("dirichlet", alpha=0.5, min_size=2))
    smallest = min(len(h) for h in held(first))
    same = split(PartitionConfig("dirichlet", alpha=0.5, min_size=smallest))
    other = split(PartitionConfig("dirichlet", alpha=0.5, min_size=smallest + 1))
    assert same.hash == first.hash
    assert other.hash != first.hash
    assert min(len(h) for h in held(other)) > smallest


@pytest.mark.parametrize(("fraction", "num_test"), [(0.25, 25), (0.001, 1), (0.999, 99)])
def test_train_and_test_are_disjoint_and_never_empty(fraction: float, num_test: int) -> None:
    config = PartitionConfig("iid", client_size=100, test_fraction=fraction)
    for client in split(config).train_clients:
        assert (len(client.train), len(client.test)) == (100 - num_test, num_test)
        assert not set(client.train) & set(client.test)
        assert client.train.dtype == client.test.dtype == np.int64


@pytest.mark.parametrize("name", ["dirichlet", "inner_dirichlet"])
def test_alpha_moves_the_mixtures_from_one_class_to_all(name: str) -> None:
    def largest_share(alpha: float) -> float:
        config = PartitionConfig(name, alpha=alpha, min_size=2)
        if name == "inner_dirichlet":
            config = replace(config, client_size=100)
        parts = [indices for seed in SEEDS for indices in held(split(config, seed))]
        return float(np.mean([class_mixture(LABELS, p, 10).max() for p in parts]))

    assert largest_share(0.05) > 0.6
    assert largest_share(0.05) > largest_share(0.5) > largest_share(5.0) > largest_share(1e4)
    assert largest_share(1e4) < 0.2


@pytest.mark.parametrize("k", [1, 2, 3, 10])
def test_pathological_clients_hold_exactly_k_classes_in_equal_parts(k: int) -> None:
    for seed in SEEDS:
        config = PartitionConfig("pathological", classes_per_client=k)
        counts = split(config, seed).class_counts(LABELS, 10)
        assert ((counts > 0).sum(axis=1) == k).all()
        assert (counts.sum(axis=0) == 300).all()
        for of_class in counts.T:
            shares = of_class[of_class > 0]
            assert shares.max() - shares.min() <= 1
        assert np.ptp((counts > 0).sum(axis=0)) <= 1


def test_new_clients_train_on_the_first_images_only_and_nothing_else_changes() -> None:
    config = PartitionConfig("inner_dirichlet", client_size=200)
    full, cut, one = (split(config, 0, n) for n in (None, 40, 1))
    for whole, part in zip(full.train_clients, cut.train_clients, strict=True):
        assert np.array_equal(whole.train, part.train)
        assert np.array_equal(whole.test, part.test)
    for whole, part, single in zip(full.new_clients, cut.new_clients, one.new_clients, strict=True):
        assert np.array_equal(part.train, whole.train[:40])
        assert np.array_equal(single.train, whole.train[:1])
        assert np.array_equal(part.test, whole.test)
    assert split(config, 0, 10**6).hash == full.hash


@pytest.mark.parametrize("name", SCHEMES)
def test_pre_training_may_cover_some_classes_and_new_clients_stay_the_same(name: str) -> None:
    config = PartitionConfig(name, alpha=0.5)
    whole, narrow = split(config), split(replace(config, num_train_classes=4))
    assert [c.train.tolist() for c in narrow.new_clients] == [
        c.train.tolist() for c in whole.new_clients
    ]
    assert [c.client_id for c in narrow.train_clients] == list(range(8))
    old = np.concatenate([np.concatenate([c.train, c.test]) for c in narrow.train_clients])
    new = np.concatenate([np.concatenate([c.train, c.test]) for c in narrow.new_clients])
    assert set(LABELS[old]) == {0, 1, 2, 3}
    assert max(LABELS[new]) > 3
    assert len(set(old)) == len(old)
    assert not set(old) & set(new)
    assert split(replace(config, num_train_classes=4)).hash == narrow.hash != whole.hash


def test_the_hash_is_of_little_endian_64_bit_integers() -> None:
    # role 0, id 0, 2 train images, 1 test image, then the indices
    expected = b"".join(i.to_bytes(8, "little") for i in (0, 0, 2, 1, 258, 2, 3))
    client = ClientSplit(0, np.array([258, 2], ">i8"), np.array([3], ">i8"))
    assert Partition((client,), ()).hash == hashlib.sha256(expected).hexdigest()


def test_requests_that_the_data_cannot_meet() -> None:
    with pytest.raises(ConfigError, match=r"at most 10 partition\.classes_per_client, got 11"):
        split(PartitionConfig("pathological", classes_per_client=11))
    with pytest.raises(DataError, match=r"at least 250 images for each of .* in 21 draws"):
        split(PartitionConfig("dirichlet", alpha=0.1, min_size=250))
