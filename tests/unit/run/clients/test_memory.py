"""What a round's memory is, and who has room for it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.clients import memory
from pipeline.clients.context import KEPT_BYTES
from pipeline.clients.memory import (
    NO_ROUNDS,
    Footprint,
    Place,
    RoundMemory,
    check_memory,
    footprint,
    kept_positions,
    peak_bytes,
    resident_bytes,
)
from pipeline.clients.worker import ClientWorker
from pipeline.config.load import load_config
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.setup import prepare
from spire_core.errors import ClusterError
from spire_core.federated import client
from spire_core.federated.exact_sum import BYTES
from spire_core.methods import BODY, LOCAL
from spire_core.training.adam import Adam

MIB, GIB = 2**20, 2**30
GPU_CALLS = ("mem_get_info", "memory_reserved", "max_memory_reserved", "empty_cache")
GPU_CALLS += ("get_device_properties",)


def found_on(*places: tuple[str, int], step: int = 100) -> list[Footprint]:
    """Actors on nodes with so many free MiB; the first of them has measured a step."""
    needs = [step, *[0] * len(places)]
    return [
        Footprint(Place(node, need * MIB, free * MIB))
        for need, (node, free) in zip(needs, places, strict=False)
    ]


def test_each_node_keeps_as_many_as_it_has_room_for() -> None:
    places = [("a", 250), ("b", 90), ("a", 240), ("c", 100), ("a", 260)]
    kept = kept_positions(found_on(*places), NO_ROUNDS)
    assert kept == [0, 2, 3]  # a: 240 is the least seen; b: none
    assert kept_positions(found_on(*places, step=0), NO_ROUNDS) == [0, 1, 2, 3, 4]
    assert kept_positions(found_on(*places, step=261), NO_ROUNDS) == []


def test_a_sum_needs_as_much_room_in_every_actor() -> None:
    def kept(free: int) -> list[int]:
        return kept_positions(found_on(*[("a", free)] * 4), RoundMemory(actor_bytes=20 * MIB))

    assert kept(4 * 120) == [0, 1, 2, 3]
    assert kept(4 * 120 - 1) == [0, 1, 2]


def test_the_drivers_node_has_less_room() -> None:
    places, round_ = [("a", 150), ("b", 150)], RoundMemory(server_bytes=60 * MIB)
    assert kept_positions(found_on(*places), round_, server_node="a") == [1]
    assert kept_positions(found_on(*places), round_, server_node="elsewhere") == [0, 1]


def test_the_broadcast_needs_room_on_each_node_once() -> None:
    places, round_ = [("a", 220), ("a", 220), ("b", 119)], RoundMemory(node_bytes=20 * MIB)
    assert kept_positions(found_on(*places), round_) == [0, 1]
    round_ = RoundMemory(server_bytes=MIB, node_bytes=20 * MIB)
    assert kept_positions(found_on(*places), round_, server_node="a") == [0]


def test_an_actor_with_a_gpu_needs_room_on_both() -> None:
    def kept(node_free: int, gpu_free: int) -> list[int]:
        found = [
            Footprint(Place("a", 0, node_free * MIB), Place("a GPU 0", need, gpu_free * MIB))
            for need in (100 * MIB, 0)
        ]
        return kept_positions(found, RoundMemory(actor_bytes=20 * MIB))

    assert kept(40, 200) == [0, 1]
    assert kept(40, 199) == [0]
    assert kept(39, 200) == [0]


def test_the_memory_of_a_mean_does_not_depend_on_the_cohort(mnist_root: Path) -> None:
    def memory_of(cohort_size: int, *words: str) -> RoundMemory:
        sizes = [f"federation.num_clients={cohort_size}", f"federation.cohort_size={cohort_size}"]
        return RoundMemory.of(load_config("smoke", [*sizes, "client.engine=loop", *words]), 10**8)

    one, many = memory_of(40), memory_of(4000)
    assert one == many
    assert one.actor_bytes == (2 * 12 + 3 * BYTES) * 10**8
    assert one.node_bytes == 12 * 10**8
    assert memory_of(40, "client.opt_state=reset").actor_bytes == (2 * 4 + BYTES) * 10**8
    assert one.in_one_process == one.server_bytes + one.actor_bytes + 16 * 10**8
    group = memory_of(40, "client.engine=grouped", "client.group_size=4")
    assert group.actor_bytes == (2 * 4 * 12 + 3 * BYTES) * 10**8
    assert group.step_bytes == 4 * one.step_bytes == 4 * 16 * 10**8


def test_a_round_that_one_process_has_no_room_for_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 100 * MIB)
    check_memory(RoundMemory(actor_bytes=60 * MIB, server_bytes=40 * MIB))
    with pytest.raises(ClusterError, match="got 101 MiB, 100 MiB free: lower model"):
        check_memory(RoundMemory(actor_bytes=61 * MIB, server_bytes=40 * MIB))


def test_what_work_takes_is_seen_after_it() -> None:
    before, size = resident_bytes(), KEPT_BYTES + 64 * MIB  # beyond what was freed and is kept
    goal = peak_bytes() + size  # beyond what any test before has held
    held = torch.ones(goal - before, dtype=torch.uint8)
    found = footprint("here", before, torch.device("cpu"))
    assert (found.node.name, found.gpu) == ("here", None)
    assert abs(found.node.need_bytes - len(held)) < 8 * MIB  # the kernel counts batches of pages
    assert found.node.free_bytes > 0


class Gpu:
    """Stands in for torch's allocator on a GPU of 80 GiB; `step`: what a step took, beside `held`.

    `context` is what CUDA takes of every process, which torch does not count.
    """

    def __init__(self, uuid: str, step: int = 0, held: int = 2, context: int = 1) -> None:
        self.uuid, self.held, self.context = uuid, held * GIB, context * GIB
        self.reserved = self.peak = self.held + step * GIB

    def mem_get_info(self, _: torch.device) -> tuple[int, int]:
        return 80 * GIB - self.context - self.reserved, 80 * GIB

    def memory_reserved(self, _: torch.device) -> int:
        return self.reserved

    def max_memory_reserved(self, _: torch.device) -> int:
        return self.peak

    def empty_cache(self) -> None:
        self.reserved = self.held

    def get_device_properties(self, _: torch.device) -> SimpleNamespace:
        return SimpleNamespace(uuid=self.uuid)

    def footprint(self, node: str = "a") -> Footprint:
        with pytest.MonkeyPatch.context() as patch:
            for name in GPU_CALLS:
                patch.setattr(torch.cuda, name, getattr(self, name))
            return footprint(node, resident_bytes(), torch.device("cuda"))


def test_a_step_may_take_all_that_the_other_processes_leave_of_a_gpu() -> None:
    found = Gpu("0", step=77).footprint()
    assert found.gpu == Place("a GPU 0", 79 * GIB, 79 * GIB)
    assert kept_positions([found], NO_ROUNDS) == [0]
    assert kept_positions([Gpu("0", step=77, context=2).footprint()], NO_ROUNDS) == []
    graphs = Gpu("0", step=10, held=69).footprint()  # reserved as long as the network is there
    assert graphs.gpu == Place("a GPU 0", 79 * GIB, 79 * GIB)


def test_of_eight_gpus_the_one_that_rehearsed_works_too() -> None:
    found = [Gpu("0", step=50).footprint(), *[Gpu(str(i)).footprint() for i in range(1, 8)]]
    assert kept_positions(found, NO_ROUNDS) == list(range(8))


@pytest.mark.parametrize(("step", "kept"), [(36, [0, 1]), (37, [0])])
def test_two_processes_share_a_gpu_if_both_have_room_for_a_step(step: int, kept: list[int]) -> None:
    both = 1 + 1 + 2  # their contexts, and the model of the other
    found = [Gpu("0", step, context=both).footprint(), Gpu("0", context=both).footprint()]
    assert kept_positions(found, NO_ROUNDS) == kept  # of 76 GiB


def test_a_rehearsal_takes_each_phase_with_the_servers_moments(
    mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["method=shared_rep", "method.phases=alternate", "client.engine=loop"]
    setting = prepare(load_config("smoke", [*words, f"data.root={mnist_root}"]))
    setup = WorkerSetup(
        setting.config, setting.mixtures, setting.partition, setting.extractor, tmp_path
    )
    phases: list[set[str]] = []

    def seen(leaves: Any, rates: Any, moments: Any) -> Adam:
        phases.append({*leaves})
        assert {LOCAL, BODY} <= moments.keys()
        return Adam(leaves, rates, moments)

    monkeypatch.setattr(client, "Adam", seen)
    ClientWorker(setup, setting.images).rehearse()
    assert phases[0] == {LOCAL}
    assert BODY in phases[1]


@pytest.mark.parametrize("engine", ["loop", "grouped"])
def test_a_rehearsal_changes_nothing(mnist_root: Path, tmp_path: Path, engine: str) -> None:
    words = [f"data.root={mnist_root}", f"client.engine={engine}", f"tracking.root={tmp_path}"]
    setting = prepare(load_config("smoke", words))
    setup = WorkerSetup(
        setting.config, setting.mixtures, setting.partition, setting.extractor, tmp_path / "run"
    )
    worker, other = (ClientWorker(setup, setting.images) for _ in range(2))
    worker.rehearse()
    assert not (tmp_path / "run").exists()
    weights = np.linspace(-0.1, 0.1, worker.context.model.layout.size, dtype=np.float32)
    drawn = [w.losses(0, weights, 1) for w in (worker, other)]
    assert drawn[0] == drawn[1]
