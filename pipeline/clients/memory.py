"""The memory that is free, the actors that have room to work in it, and what a process keeps.

Free is what the machine has, and what the limits of its containers leave: those of control groups
(Linux, versions 1 and 2), which the machine's own number does not know.
"""

import ctypes
import platform
import resource
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from pipeline.config.schema import Config
from spire_core.federated.exact_sum import BYTES

if TYPE_CHECKING:
    import torch

KEPT_BYTES = 2**28  # 256 MiB
LARGEST_BYTES = 2**25  # 32 MiB, the most that every glibc takes
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
SERVER_ARRAYS = 10  # of eight bytes (P,): both states with moments, and the step between them
MEMBERSHIP, MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
GROUP_FILES = (  # of each version: limit, use, and the key of the part that can be reclaimed
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


@dataclass(frozen=True)
class Room:
    """The memory in which an actor works: its GPU's if it computes there, else its node's.

    `need_bytes`: what a step takes, of the actor that has measured one. On a node neither counts
    the idle state of a process, which has it already. On a GPU `free_bytes` counts what the process
    itself holds, and `need_bytes` its model.
    """

    place: str
    free_bytes: int
    need_bytes: int = 0


def room_of(node: str, device: "torch.device", need_bytes: int) -> Room:
    """Return the room of this process, which computes on a device."""
    if device.type != "cuda":
        return Room(node, available_bytes(), need_bytes)
    import torch

    torch.cuda.empty_cache()  # what is left of a step would be missing to who begins later
    free, _ = torch.cuda.mem_get_info(device)
    name = f"{node} GPU {torch.cuda.get_device_properties(device).uuid}"
    return Room(name, free + torch.cuda.memory_reserved(device), need_bytes)


def kept_positions(rooms: Sequence[Room], server_node: str, server_bytes: int) -> list[int]:
    """Return the positions of the actors that have room to work at once, the first in each place.

    The first actor has measured the need. A place's free memory is the least that was seen there,
    without the driver's bytes on its node.
    """
    free: dict[str, int] = {}
    for room in rooms:
        free[room.place] = min(room.free_bytes, free.get(room.place, room.free_bytes))
    free[server_node] = free.get(server_node, 0) - server_bytes
    need, kept = rooms[0].need_bytes, []
    for position, room in enumerate(rooms):
        if free[room.place] >= need:
            free[room.place] -= need
            kept.append(position)
    return kept


def server_bytes(config: Config, num_weights: int) -> int:
    """Return the memory of a driver: its vectors, the total of the sums, and one on its way."""
    if not config.method.record.is_federated:
        return 0
    arrays = 3 if config.client.opt_state == "average" else 1
    return num_weights * (8 * SERVER_ARRAYS + 2 * BYTES * arrays)


def resident_bytes() -> int:
    """Return the memory that this process holds now."""
    return psutil.Process().memory_info().rss


def peak_bytes() -> int:
    """Return the most memory that this process has ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def available_bytes() -> int:
    """Return the memory that this process can still get without swapping or being killed."""
    return min([psutil.virtual_memory().available, *container_room(MEMBERSHIP, MOUNT)])


def container_room(membership: Path, mount: Path) -> Iterator[int]:
    """Yield the free bytes below each limit of a process's control groups, and of those above.

    In a container the path in `membership` may be the host's. The mount then begins at the
    container's own group, so that only the last of these folders exists.
    """
    for _, controllers, path in (line.split(":", 2) for line in _lines(membership)):
        if controllers and "memory" not in controllers.split(","):
            continue
        group = (mount / "memory" if controllers else mount) / path.lstrip("/")
        for folder in (group, *group.parents):
            for limit, use, key in GROUP_FILES:
                if (folder / limit).exists() and (text := (folder / limit).read_text()) != "max\n":
                    stat = dict(line.split() for line in _lines(folder / "memory.stat"))
                    used = int((folder / use).read_text()) - int(stat.get(key, 0))
                    yield max(0, int(text) - max(0, used))


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next step, instead of returning it at once.

    Each step frees all memory that it allocates. By default glibc returns that to the system, which
    clears every page before it hands it out again: a sixth of a small network's training time.
    Without glibc this function does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(_MMAP_THRESHOLD, LARGEST_BYTES)
