"""The memory of a round, the memory that is free, and the number of actors that fit on a node.

A client's step is measured, and the rest is counted: the updates of clients that are computed
together, the sum of each actor, the broadcast on each node, and the driver's vectors. Free is what
the machine has, and what the limits of its containers leave: those of control groups (Linux,
versions 1 and 2), which the machine's own number does not know.
"""

import resource
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from pipeline.config.schema import Config
from spire_core.errors import ClusterError
from spire_core.federated.exact_sum import BYTES

if TYPE_CHECKING:
    import torch

SERVER_ARRAYS = 10  # of eight bytes (P,): both states with moments, and the step between them
STEP_BYTES = 16  # a weight and its gradient, and Adam's two moments
MEMBERSHIP, MOUNT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Place:
    """A memory that processes share: a node's, or a GPU's.

    `need_bytes`: what an actor's step needs of `free_bytes`. On a node neither counts the idle
    state of a process, which has it already. On a GPU `free_bytes` counts what the process itself
    holds, and `need_bytes` its model.
    """

    name: str
    need_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Footprint:
    """Memory of an actor: on its node and, if it computes there, on its GPU."""

    node: Place
    gpu: Place | None = None


@dataclass(frozen=True)
class RoundMemory:
    """Bytes of the updates of one round."""

    actor_bytes: int = 0  # of an actor, whatever its share of the cohort
    server_bytes: int = 0  # of the driver and of what is on its way to it
    node_bytes: int = 0  # of the broadcast, in the object store of each node
    step_bytes: int = 0  # of the networks as they train, where nobody measures a step

    @classmethod
    def of(cls, config: Config, num_weights: int) -> "RoundMemory":
        """Return a round's memory for clients that share all of their weights, as in some rounds.

        The driver has a sum of its own, and fetches that of one actor at a time.
        """
        client, cohort_size = config.resolved_client, config.federation.cohort_size
        arrays = 3 if client.opt_state == "average" else 1
        update, of_sum = 4 * arrays * num_weights, BYTES * arrays * num_weights
        together = client.largest_group(cohort_size) if client.engine == "grouped" else 1
        server = SERVER_ARRAYS * 8 * num_weights + 2 * of_sum
        return cls(
            2 * together * update + of_sum, server, update, together * STEP_BYTES * num_weights
        )

    @property
    def in_one_process(self) -> int:
        """The bytes of a round whose clients and server are one process."""
        return self.actor_bytes + self.server_bytes + self.step_bytes


def check_memory(round_: RoundMemory) -> None:
    """Raise ClusterError if a round has no room in this process."""
    need, free = round_.in_one_process, available_bytes()
    if need > free:
        raise ClusterError(
            f"expected memory for the updates of a round, got {need / 2**20:.0f} MiB, "
            f"{free / 2**20:.0f} MiB free: lower model.width"
        )


NO_ROUNDS = RoundMemory()


def resident_bytes() -> int:
    """Return the memory that this process holds now."""
    return psutil.Process().memory_info().rss


def peak_bytes() -> int:
    """Return the most memory that this process has ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def footprint(node: str, before_bytes: int, device: "torch.device") -> Footprint:
    """Return what work has taken that this process has just done for the first time.

    `before_bytes`: what it held before that work.
    """
    free = available_bytes()
    if device.type != "cuda":
        return Footprint(Place(node, max(0, peak_bytes() - before_bytes), free))
    import torch

    need_gpu = torch.cuda.max_memory_reserved(device)
    torch.cuda.empty_cache()  # what is left of a step would be missing to who begins later
    free_gpu, _ = torch.cuda.mem_get_info(device)
    name = f"{node} GPU {torch.cuda.get_device_properties(device).uuid}"
    gpu = Place(name, need_gpu, free_gpu + torch.cuda.memory_reserved(device))
    return Footprint(Place(node, 0, free), gpu)


def kept_positions(
    found: Sequence[Footprint],
    round_: RoundMemory,
    server_node: str | None = None,
) -> list[int]:
    """Return the positions of the actors that have room to work at once, the first on each node.

    The first actor has measured the need. A place's free memory is the least that was seen there.
    `server_node` is the node of the driver.
    """
    free: dict[str, int] = {}
    for place in (place for one in found for place in (one.node, one.gpu) if place is not None):
        free[place.name] = min(place.free_bytes, free.get(place.name, place.free_bytes))
    for node in {one.node.name for one in found}:
        free[node] -= round_.node_bytes + (round_.server_bytes if node == server_node else 0)
    need_node = found[0].node.need_bytes + round_.actor_bytes
    need_gpu = 0 if found[0].gpu is None else found[0].gpu.need_bytes
    kept = []
    for position, one in enumerate(found):
        needs = {one.node.name: need_node} | ({one.gpu.name: need_gpu} if one.gpu else {})
        if all(free[name] >= need for name, need in needs.items()):
            for name, need in needs.items():
                free[name] -= need
            kept.append(position)
    return kept


def sizes_text(footprints: Sequence[Footprint], actor_bytes: int) -> str:
    """Return the need of an actor and the least free memory, in words."""
    mib, step = 2**20, footprints[0]
    least = min(one.node.free_bytes for one in footprints)
    words = f"{step.node.need_bytes / mib:.0f} MiB for a step and {actor_bytes / mib:.0f} MiB for "
    words += f"the updates of a round in each, {least / mib:.0f} MiB free"
    gpus = [one.gpu.free_bytes for one in footprints if one.gpu is not None]
    if step.gpu is None or not gpus:
        return words
    need, free = step.gpu.need_bytes / mib, min(gpus) / mib
    return f"{words}; {need:.0f} MiB for a step on a GPU, {free:.0f} MiB free there"


# --- free memory ---


@dataclass(frozen=True)
class Version:
    """The files of one version of control groups: limit, use, reclaimable part of it."""

    limit: str
    use: str
    reclaimable: str  # a key of memory.stat


V1 = Version("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = Version("memory.max", "memory.current", "inactive_file")


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
