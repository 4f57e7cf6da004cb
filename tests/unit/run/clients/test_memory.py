"""What a round's memory is, and who has room for it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.clients.memory import Footprint, footprint, kept_positions, peak_bytes, resident_bytes
from pipeline.clients.process import KEPT_BYTES
from pipeline.clients.worker import ClientWorker
from pipeline.config.load import load_config
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.setup import prepare

MIB = 2**20


def test_each_node_keeps_as_many_as_it_has_room_for() -> None:
    found = [
        Footprint(node, 0, free * MIB)
        for node, free in [("a", 250), ("b", 90), ("a", 240), ("c", 100), ("a", 260)]
    ]
    assert kept_positions(found, 100 * MIB) == [0, 2, 3]  # a: 240 is the least seen; b: none
    assert kept_positions(found, 0) == [0, 1, 2, 3, 4]
    assert kept_positions(found, 241 * MIB) == []


def test_what_work_takes_is_seen_after_it() -> None:
    before, size = resident_bytes(), KEPT_BYTES + 64 * MIB  # beyond what was freed and is kept
    goal = peak_bytes() + size  # beyond what any test before has held
    held = torch.ones(goal - before, dtype=torch.uint8)
    found = footprint("here", before, torch.device("cpu"))
    assert found.node == "here"
    assert abs(found.need_bytes - len(held)) < 8 * MIB  # the kernel counts in batches of pages
    assert found.free_bytes > 0


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
