"""The memory that is free, what a step takes of it, and who has room for one."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from pipeline.clients import memory
from pipeline.clients.memory import (
    Room,
    available_bytes,
    container_room,
    kept_positions,
    peak_bytes,
    resident_bytes,
    server_bytes,
)
from pipeline.clients.worker import ClientWorker
from pipeline.config.load import load_config
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.setup import prepare
from spire_core.federated import client
from spire_core.methods import BODY, LOCAL
from spire_core.training.adam import Adam

GIB = 2**30
NO_LIMIT = 9223372036854771712  # of control groups of version 1


def rooms_on(*places: tuple[str, int], need: int = 100) -> list[Room]:
    """Actors in places with so much free; the first of them has measured a step."""
    needs = [need, *[0] * len(places)]
    return [Room(*place, one) for place, one in zip(places, needs, strict=False)]


def test_each_place_keeps_as_many_as_it_has_room_for() -> None:
    places = [("a", 250), ("b", 90), ("a", 240), ("c", 100), ("a", 260)]
    assert kept_positions(rooms_on(*places), "d", 0) == [0, 2, 3]  # a: 240 is the least; b: none
    assert kept_positions(rooms_on(*places, need=0), "d", 0) == [0, 1, 2, 3, 4]
    assert kept_positions(rooms_on(*places, need=261), "d", 0) == []
    assert kept_positions(rooms_on(*places), "a", 41) == [0, 3]  # the driver's node has less


def test_the_memory_of_a_driver_grows_with_the_network_alone() -> None:
    def of(*words: str) -> int:
        return server_bytes(load_config("smoke", [*words]), 10**8)

    assert of() == of("federation.num_clients=400", "federation.cohort_size=400")
    assert of() == (80 + 2 * 16 * 3) * 10**8
    assert of("client.opt_state=reset") == (80 + 2 * 16) * 10**8
    assert of("method=local") == 0


# --- a rehearsal ---


def worker_of(mnist_root: Path, folder: Path, *words: str) -> ClientWorker:
    setting = prepare(load_config("smoke", [f"data.root={mnist_root}", *words]))
    parts = (setting.mixtures, setting.partition, setting.extractor, folder)
    return ClientWorker(WorkerSetup(setting.config, *parts), setting.images)


def test_a_rehearsal_takes_each_phase_with_the_servers_moments(
    mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    phases: list[set[str]] = []

    def seen(leaves: Any, rates: Any, moments: Any) -> Adam:
        phases.append({*leaves})
        assert {LOCAL, BODY} <= moments.keys()
        return Adam(leaves, rates, moments)

    monkeypatch.setattr(client, "Adam", seen)
    words = ["method=shared_rep", "method.phases=alternate", "client.engine=loop"]
    worker_of(mnist_root, tmp_path, *words).measure_step()
    assert phases[0] == {LOCAL}
    assert BODY in phases[1]


@pytest.mark.parametrize("engine", ["loop", "grouped"])
def test_a_rehearsal_is_measured_and_changes_nothing(
    mnist_root: Path, tmp_path: Path, engine: str
) -> None:
    words = (f"client.engine={engine}",)
    worker, other = (worker_of(mnist_root, tmp_path / "run", *words) for _ in range(2))
    before_s, before = time.process_time(), resident_bytes()
    costs = worker.measure_step()
    spent_s, num_images = time.process_time() - before_s, 16 * (2 if engine == "grouped" else 1)
    assert 0 < 2 * costs.train_s * num_images < spent_s
    assert 0 < costs.look_s < spent_s
    assert costs.peak_bytes == pytest.approx(peak_bytes() - before, abs=2**24)
    assert not (tmp_path / "run").exists()
    weights = np.linspace(-0.1, 0.1, worker.model.layout.size, dtype=np.float32)
    drawn = [w.losses(0, weights, 1) for w in (worker, other)]
    assert drawn[0] == drawn[1]


# --- limits of containers ---


def group(folder: Path, limit: str | int, use: int, cache: int = 0, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("memory.max", "memory.current")
    stat = f"anon 7\ninactive_file {cache}\nactive_file 1"
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
        stat = f"cache 5\ninactive_file 1\ntotal_inactive_file {cache}"
    for name, text in (*zip(names, (limit, use), strict=True), ("memory.stat", stat)):
        (folder / name).write_text(f"{text}\n")


def test_every_limit_above_a_process_counts(tmp_path: Path) -> None:
    member = tmp_path / "cgroup"
    member.write_text("0::/pods/one\n")
    group(tmp_path / "fs/pods/one", "max", 1 * GIB)
    group(tmp_path / "fs/pods", 3 * GIB, 2 * GIB, cache=GIB // 2)
    group(tmp_path / "fs", GIB, 2 * GIB)
    assert list(container_room(member, tmp_path / "fs")) == [3 * GIB // 2, 0]


def test_a_container_sees_its_group_at_the_mount_under_another_path(tmp_path: Path) -> None:
    member = tmp_path / "cgroup"
    member.write_text("9:name=systemd:/\n4:cpu,memory:/docker/4f\n3:cpuset:/docker/4f\n0::/\n")
    group(tmp_path / "fs/memory", 4 * GIB, 3 * GIB, cache=2 * GIB, version=1)
    assert list(container_room(member, tmp_path / "fs")) == [3 * GIB]
    group(tmp_path / "fs/memory", NO_LIMIT, GIB, version=1)
    [room] = container_room(member, tmp_path / "fs")
    assert room > psutil.virtual_memory().total


def test_without_groups_the_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MEMBERSHIP", tmp_path / "none")
    assert 0 < available_bytes() < psutil.virtual_memory().total
    member = tmp_path / "cgroup"
    member.write_text("0::/\n")
    group(tmp_path / "fs", 3, 1)
    monkeypatch.setattr(memory, "MEMBERSHIP", member)
    monkeypatch.setattr(memory, "MOUNT", tmp_path / "fs")
    assert available_bytes() == 2
