"""A container's limit counts, of either version of control groups, and wherever it is set."""

from pathlib import Path

import psutil
import pytest

from pipeline.clients import memory
from pipeline.clients.memory import available_bytes, container_room

GIB = 2**30
NO_LIMIT = 9223372036854771712  # of version 1


def group(folder: Path, **files: str | int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def version_1(folder: Path, limit: int, use: int, cache: int = 0) -> None:
    stat = f"cache 5\ninactive_file 1\ntotal_inactive_file {cache}"
    group(folder, memory__limit_in_bytes=limit, memory__usage_in_bytes=use, memory__stat=stat)


def version_2(folder: Path, limit: str | int, use: int, cache: int = 0) -> None:
    group(folder, memory__max=limit, memory__current=use)
    group(folder, memory__stat=f"anon 7\ninactive_file {cache}\nactive_file 1")


def test_the_narrowest_of_the_groups_above_counts(tmp_path: Path) -> None:
    member = tmp_path / "cgroup"
    member.write_text("0::/pods/one\n")
    version_2(tmp_path / "fs/pods/one", "max", 1 * GIB)
    version_2(tmp_path / "fs/pods", 3 * GIB, 2 * GIB, cache=GIB // 2)
    assert list(container_room(member, tmp_path / "fs")) == [3 * GIB // 2]


def test_a_container_sees_its_group_at_the_mount_under_another_path(tmp_path: Path) -> None:
    member = tmp_path / "cgroup"
    member.write_text("9:name=systemd:/\n4:cpu,memory:/docker/4f\n3:cpuset:/docker/4f\n0::/\n")
    version_1(tmp_path / "fs/memory", 4 * GIB, 3 * GIB, cache=2 * GIB)
    assert list(container_room(member, tmp_path / "fs")) == [3 * GIB]


def test_no_limit_of_version_1_is_a_number_beyond_any_machine(tmp_path: Path) -> None:
    member = tmp_path / "cgroup"
    member.write_text("4:memory:/a\n")
    version_1(tmp_path / "fs/memory/a", NO_LIMIT, GIB)
    [room] = container_room(member, tmp_path / "fs")
    assert room > psutil.virtual_memory().total


def test_both_versions_at_once_are_read(tmp_path: Path) -> None:
    member = tmp_path / "cgroup"
    member.write_text("4:memory:/a\n0::/a\n")
    version_1(tmp_path / "fs/memory/a", 5 * GIB, GIB)
    version_2(tmp_path / "fs/unified/a", 3 * GIB, GIB)
    assert list(container_room(member, tmp_path / "fs")) == [4 * GIB, 2 * GIB]


def test_a_group_over_its_limit_has_no_room(tmp_path: Path) -> None:
    member = tmp_path / "cgroup"
    member.write_text("0::/\n")
    version_2(tmp_path / "fs", GIB, 2 * GIB)
    assert list(container_room(member, tmp_path / "fs")) == [0]


def test_without_groups_the_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MEMBERSHIP", tmp_path / "none")
    total = psutil.virtual_memory().total
    assert 0 < available_bytes() < total
    member = tmp_path / "cgroup"
    member.write_text("0::/\n")
    version_2(tmp_path / "fs", 3, 1)
    monkeypatch.setattr(memory, "MEMBERSHIP", member)
    monkeypatch.setattr(memory, "MOUNT", tmp_path / "fs")
    assert available_bytes() == 2
