"""The memory of a round, and the number of actors that fit on a node.

A client's step is measured. The updates of a round are counted: each actor keeps those of its share
of the cohort until the last one, and copies them into Ray's object store, which is memory of the
same node. The driver reads them there.
"""

import math
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from pipeline.clients.free_memory import available_bytes
from spire_core.config.client import ClientConfig
from spire_core.errors import ClusterError

if TYPE_CHECKING:
    import torch

SUMS = 4  # float64 arrays in the server's step


@dataclass(frozen=True)
class Place:
    """A memory that processes share: a node's, or a GPU's.

    `need_bytes`: what an actor's step needs there beyond the process's idle state.
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

    cohort_size: int = 0
    message_bytes: int = 0  # of one client's message
    server_bytes: int = 0  # of the driver beside the messages

    @classmethod
    def of(cls, client: ClientConfig, cohort_size: int, num_weights: int) -> "RoundMemory":
        """Return a round's memory for clients that share all of their weights, as in some rounds.

        A compressed message is decoded by the driver, which then holds the whole update.
        """
        whole = num_weights * (12 if client.opt_state == "average" else 4)
        decoded = 0 if client.compression == "none" else cohort_size * whole
        sent = num_weights * _bytes_per_weight(client)
        return cls(cohort_size, round(sent), decoded + SUMS * 8 * num_weights)

    def per_actor(self, num_actors: int, store_bytes: float) -> int:
        """Return the bytes of an actor's share of the messages and of their copies in the store.

        `store_bytes`: the size of the object store, which spills what it has no room for.
        """
        share = self.message_bytes * -(-self.cohort_size // num_actors)
        return share + int(min(share, store_bytes / num_actors))

    @property
    def in_one_process(self) -> int:
        """The bytes of a round whose clients and server are one process."""
        return self.message_bytes * self.cohort_size + self.server_bytes


def check_memory(round_: RoundMemory) -> None:
    """Raise ClusterError if a round has no room in this process."""
    need, free = round_.in_one_process, available_bytes()
    if need > free:
        raise ClusterError(
            f"expected memory for the updates of a round, got {need / 2**20:.0f} MiB for "
            f"{round_.cohort_size} clients, {free / 2**20:.0f} MiB free: lower "
            "federation.cohort_size or model.width"
        )


NO_ROUNDS = RoundMemory()


def _bytes_per_weight(client: ClientConfig) -> float:
    change = {"none": 4.0, "bf16": 2.0, "int8": 1.0, "top_k": 8.0 * client.top_k_fraction}
    moments = 8.0 if client.compression == "none" else 4.0
    return change[client.compression] + (moments if client.opt_state == "average" else 0.0)


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

    free_gpu, _ = torch.cuda.mem_get_info(device)
    name = f"{node} GPU {torch.cuda.get_device_properties(device).uuid}"
    gpu = Place(name, torch.cuda.max_memory_reserved(device), free_gpu)
    return Footprint(Place(node, 0, free), gpu)


def kept_positions(
    found: Sequence[Footprint],
    round_: RoundMemory,
    store_bytes: float = math.inf,
    server_node: str | None = None,
) -> list[int]:
    """Return the positions of the most actors that have room to work at once.

    The first actor has measured the need. A place's free memory is the least that was seen there.
    With fewer actors, each has a larger share of the cohort's updates. `server_node` is the node of
    the driver.
    """
    for num_actors in range(len(found), 0, -1):
        share = round_.per_actor(num_actors, store_bytes)
        kept = _fitting(found, share, server_node, round_.server_bytes)
        if len(kept) >= num_actors:
            return kept[:num_actors]
    return []


def _fitting(
    found: Sequence[Footprint], share_bytes: int, server_node: str | None, server_bytes: int
) -> list[int]:
    """Return the positions of the actors that fit, each with this share, the first on each node."""
    free: dict[str, int] = {}
    for place in (place for one in found for place in (one.node, one.gpu) if place is not None):
        free[place.name] = min(place.free_bytes, free.get(place.name, place.free_bytes))
    if server_node in free:
        free[server_node] -= server_bytes
    need_node = found[0].node.need_bytes + share_bytes
    need_gpu = 0 if found[0].gpu is None else found[0].gpu.need_bytes
    kept = []
    for position, one in enumerate(found):
        needs = {one.node.name: need_node} | ({one.gpu.name: need_gpu} if one.gpu else {})
        if all(free[name] >= need for name, need in needs.items()):
            for name, need in needs.items():
                free[name] -= need
            kept.append(position)
    return kept
