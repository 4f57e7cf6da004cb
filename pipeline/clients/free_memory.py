"""The memory that is free for a process: of the machine, and below the limits of its containers.

A container's limit is its control group's, or of a group above that (Linux, versions 1 and 2). The
machine's own number does not know it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

MEMBERSHIP, MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
VMSTAT = Path("/proc/vmstat")


@dataclass(frozen=True)
class Version:
    """The files of one version of control groups: limit, use, reclaimable part of it, kills."""

    limit: str
    use: str
    reclaimable: str  # a key of memory.stat
    kills: str  # a file with the key oom_kill


V1 = Version(
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "total_inactive_file",
    "memory.oom_control",
)
V2 = Version("memory.max", "memory.current", "inactive_file", "memory.events")


def available_bytes() -> int:
    """Return the memory that this process can still get without swapping or being killed."""
    return min([psutil.virtual_memory().available, *container_room(MEMBERSHIP, MOUNT)])


def container_room(membership: Path, mount: Path) -> Iterator[int]:
    """Yield the free bytes below each limit of a process's control groups."""
    for folder, version in _groups(membership, mount):
        limit, use = _number(folder / version.limit), _number(folder / version.use)
        if limit is not None and use is not None:
            used = use - _key(folder / "memory.stat", version.reclaimable)
            yield max(0, limit - max(0, used))


def oom_kills(membership: Path = MEMBERSHIP, mount: Path = MOUNT, vmstat: Path = VMSTAT) -> int:
    """Return how many processes have been killed for memory here: in the group, else anywhere."""
    for folder, version in _groups(membership, mount):
        if (folder / version.kills).exists():
            return _key(folder / version.kills, "oom_kill")
    return _key(vmstat, "oom_kill")


def _groups(membership: Path, mount: Path) -> Iterator[tuple[Path, Version]]:
    """Yield the folders of a process's memory group and of those above it, the own one first.

    In a container the path in `membership` may be the host's. Its mount then begins at the
    container's own group, so that only the last of these folders exists.
    """
    for line in _text(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            roots, version = (mount, mount / "unified"), V2
        elif "memory" in controllers.split(","):
            roots, version = (mount / "memory",), V1
        else:
            continue
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for root in roots:
            for length in range(len(parts), -1, -1):
                folder = root.joinpath(*parts[:length])
                if (folder / version.use).exists():
                    yield folder, version


def _number(path: Path) -> int | None:
    """Return the number in a file; None without the file, or for "max"."""
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _key(path: Path, name: str) -> int:
    """Return the number behind a name in a file of lines; 0 without it."""
    pairs = (line.split() for line in _text(path).splitlines())
    return next((int(pair[1]) for pair in pairs if len(pair) == 2 and pair[0] == name), 0)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # another system, or no right
        return ""
