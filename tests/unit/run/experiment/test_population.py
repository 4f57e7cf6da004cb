"""A population of a million: clients' data follow a rule, and a run touches who takes part."""

from pathlib import Path

import numpy as np
import pytest
from small_runs import crashed, fingerprint_of, finished, small

from pipeline.clients.store import ClientStore
from pipeline.experiment.run import resume_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.setup import partitioned
from pipeline.inference.saved_run import SavedRun
from spire_core.config.partition import PartitionConfig
from spire_core.federated.participation import choose_cohort
from spire_core.partition.split import DrawnClients, make_partition

LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 300))
MILLION = 1_000_000
INDEPENDENT = PartitionConfig("independent", client_size=64, alpha=0.1)
POPULATION = (
    "partition=independent",
    "partition.client_size=40",
    f"federation.num_clients={MILLION}",
    "federation.cohort_size=3",
    "federation.num_rounds=3",
    "federation.num_new_clients=1",
    "adapt.num_images=16",
    "eval.num_clients=4",
    "tracking.checkpoint_every=1",
)


def population(seed: int = 0, num: int = MILLION, config: PartitionConfig = INDEPENDENT):
    return make_partition(LABELS, config, num, 2, seed, 16)


def test_a_clients_images_depend_on_the_seed_and_its_id_alone() -> None:
    ids = [MILLION - 1, 0, 512, 77, 0, 512]
    forward, backward = population(), population()
    found = {c: forward.split(c) for c in ids}
    for client_id in reversed(ids):
        again = backward.split(client_id)
        assert again.client_id == client_id
        np.testing.assert_array_equal(again.train, found[client_id].train)
        np.testing.assert_array_equal(again.test, found[client_id].test)
    small = population(num=1000).split(512)  # nor on how many others there are
    np.testing.assert_array_equal(small.train, found[512].train)
    assert not np.array_equal(found[0].train, found[77].train)
    assert not np.array_equal(population(seed=1).split(0).train, found[0].train)


def test_a_client_holds_different_images_and_a_new_one_as_few_as_asked() -> None:
    partition = population()
    for client_id in range(50):
        split = partition.split(client_id)
        held = np.concatenate([split.train, split.test])
        assert (len(split.train), len(split.test), len(np.unique(held))) == (48, 16, 64)
    new = partition.split(MILLION + 1)
    assert (new.client_id, len(new.train), len(new.test)) == (MILLION + 1, 16, 16)


def test_the_hash_is_of_the_rule_and_the_first_clients() -> None:
    base = population().hash
    assert base == population().hash
    others = [
        population(seed=1),
        population(num=MILLION - 1),
        population(config=PartitionConfig("independent", client_size=65, alpha=0.1)),
        population(config=PartitionConfig("independent", client_size=64, alpha=0.2)),
        make_partition(LABELS[::-1], INDEPENDENT, MILLION, 2, 0, 16),
        make_partition(LABELS, INDEPENDENT, MILLION, 2, 0, 15),
        make_partition(LABELS, INDEPENDENT, MILLION, 3, 0, 16),
    ]
    assert len({base, *(p.hash for p in others)}) == len(others) + 1


def test_a_run_touches_those_who_take_part_also_when_it_is_resumed(
    mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    draw = DrawnClients.draw

    def noted(self: DrawnClients, client_id: int):
        asked.append(client_id)
        return draw(self, client_id)

    monkeypatch.setattr(DrawnClients, "draw", noted)
    config = small(mnist_root, tmp_path, *POPULATION, "adapt.init=mean")
    partitioned(config)
    assert len(set(asked)) <= 101  # the first, which stand for all, and the new one
    asked.clear()
    result = finished(config)
    cohorts = {c for r in range(3) for c in choose_cohort(MILLION, 3, config.seed, r)}
    first, new = set(range(100)), {MILLION}
    assert set(asked) == cohorts | first | new
    assert set(ClientStore(result.run_dir / "clients").client_ids()) == cohorts | new
    assert set(SavedRun.load(result.run_dir).client_ids) == cohorts | new
    assert len(cohorts) == 9
    assert set(result.setting.eval_ids) < cohorts  # a sample of those who have trained
    assert len(result.setting.eval_ids) == 4
    assert result.state_fingerprint == fingerprint_of(result, [*sorted(cohorts), MILLION])
    resumed = resume_experiment(crashed(config, 2), config, Watcher())
    assert resumed.state_fingerprint == result.state_fingerprint
