"""What a round's memory is, and who has room for it."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.clients import memory
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
from pipeline.clients.process import KEPT_BYTES
from pipeline.clients.worker import ClientWorker
from pipeline.config.load import load_config
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.setup import prepare
from spire_core.config.client import ClientConfig
from spire_core.errors import ClusterError
from spire_core.federated.messages import Broadcast, RoundPlan

MIB = 2**20


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


def test_the_updates_of_a_round_need_room_whatever_the_number_of_actors() -> None:
    def kept(free: int, cohort_size: int, store: float = math.inf) -> list[int]:
        round_ = RoundMemory(cohort_size, message_bytes=10 * MIB)
        return kept_positions(found_on(*[("a", free)] * 4), round_, store * MIB)

    assert kept(400 + 160, cohort_size=8) == [0, 1, 2, 3]  # steps, 8 messages and their copies
    assert kept(400 + 159, cohort_size=8) == [0, 1, 2]
    assert kept(100 + 160, cohort_size=8) == [0]
    assert kept(100 + 159, cohort_size=8) == []
    assert kept(100 + 120, cohort_size=8, store=40) == [0]  # the store spills the rest
    assert kept(100 + 119, cohort_size=8, store=40) == []


def test_the_drivers_node_has_less_room() -> None:
    places, round_ = [("a", 150), ("b", 150)], RoundMemory(server_bytes=60 * MIB)
    assert kept_positions(found_on(*places), round_, server_node="a") == [1]
    assert kept_positions(found_on(*places), round_, server_node="elsewhere") == [0, 1]


def test_an_actor_with_a_gpu_needs_room_on_both() -> None:
    def kept(node_free: int, gpu_free: int) -> list[int]:
        found = [
            Footprint(Place("a", 0, node_free * MIB), Place("a GPU 0", need, gpu_free * MIB))
            for need in (100 * MIB, 0)
        ]
        return kept_positions(found, RoundMemory(2, message_bytes=10 * MIB))

    assert kept(40, 200) == [0, 1]
    assert kept(40, 199) == [0]
    assert kept(39, 200) == []  # one actor would hold the updates of both clients


def test_the_memory_of_a_round_is_that_of_its_updates() -> None:
    """The largest run that was measured grew by 24 bytes for each client's parameter."""
    million, average = 10**6, ClientConfig(opt_state="average")
    round_ = RoundMemory.of(average, 40, million)
    assert round_.message_bytes == 12 * million
    assert round_.per_actor(2, math.inf) == 20 * 24 * million
    assert round_.per_actor(3, math.inf) == 14 * 24 * million
    assert round_.server_bytes == 4 * 8 * million
    assert RoundMemory.of(ClientConfig(opt_state="reset"), 40, million).message_bytes == 4 * million
    packed = RoundMemory.of(ClientConfig(opt_state="average", compression="int8"), 40, million)
    assert packed.message_bytes == 5 * million  # moments travel as bfloat16
    assert packed.server_bytes == 40 * 12 * million + 32 * million


def test_messages_are_as_large_as_counted(mnist_root: Path, tmp_path: Path) -> None:
    words = [f"data.root={mnist_root}", f"tracking.root={tmp_path}", "client.engine=loop"]
    for compression in ("none", "bf16", "int8", "top_k"):
        words[3:] = [f"client.compression={compression}"]
        setting = prepare(load_config("smoke", words))
        setup = WorkerSetup(setting.config, {}, setting.partition, setting.extractor, tmp_path)
        worker = ClientWorker(setup, setting.images)
        size = setting.model.layout.size
        plan = RoundPlan(0, lr_scale=1.0, shares_local=True, tau=1)
        [message] = worker.fit_group([0], Broadcast(np.zeros(size, np.float32)), plan)
        counted = RoundMemory.of(setting.config.client, 1, size).message_bytes
        assert 0.9 * counted < message.num_bytes < 1.1 * counted


def test_a_round_that_one_process_has_no_room_for_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 100 * MIB)
    check_memory(RoundMemory(9, 10 * MIB, 10 * MIB))
    with pytest.raises(ClusterError, match="got 110 MiB for 10 clients, 100 MiB free: lower"):
        check_memory(RoundMemory(10, 10 * MIB, 10 * MIB))


def test_what_work_takes_is_seen_after_it() -> None:
    before, size = resident_bytes(), KEPT_BYTES + 64 * MIB  # beyond what was freed and is kept
    goal = peak_bytes() + size  # beyond what any test before has held
    held = torch.ones(goal - before, dtype=torch.uint8)
    found = footprint("here", before, torch.device("cpu"))
    assert (found.node.name, found.gpu) == ("here", None)
    assert abs(found.node.need_bytes - len(held)) < 8 * MIB  # the kernel counts batches of pages
    assert found.node.free_bytes > 0


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
