"""The memory of a round, and the number of actors that fit on a node.

A client's step is measured, and the rest is counted: the messages of clients that are computed
together, the accumulator of each actor, the broadcast on each node, and on the driver's node its
vectors, the stretches that it fetches and the sealed shares of a secure sum.
"""

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from pipeline.clients.free_memory import available_bytes
from pipeline.config.schema import Config
from spire_core.errors import ClusterError
from spire_core.federated.accumulation import STRETCH_BYTES, SUM_BYTES
from spire_core.secure_sum.protocol import MAX_PARTNERS

if TYPE_CHECKING:
    import torch

NUMBER_BYTES = 8  # of a summand of an integer sum
NOISE_ARRAYS = 6  # of eight bytes (P,): a stream of bytes, what becomes of it, and a message
SHARE_BYTES = 218  # of a sealed share, 148 bytes, in the driver's dictionaries
SERVER_ARRAYS = 10  # of eight bytes (P,): both states with moments, and the step between them
STEP_BYTES = 16  # a weight and its gradient, and Adam's two moments


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

        A message and the update that is decoded from it are there together, and so are the integers
        that stand for it in a secure or private sum, in which one client's at a time are masked.
        """
        client, cohort_size = config.resolved_client, config.federation.cohort_size
        arrays = 3 if client.opt_state == "average" else 1
        update = 4 * arrays * num_weights
        together = client.largest_group(cohort_size) if client.engine == "grouped" else 1
        decoded = 1 if client.compression == "none" else 2
        is_private = config.privacy.rounds.is_on
        at_work = together * decoded * update
        if is_private or config.federation.secure_aggregation:
            at_work += (together + 2) * NUMBER_BYTES * arrays * num_weights
        if is_private:
            at_work = max(at_work, NOISE_ARRAYS * 8 * num_weights)
        sums = SUM_BYTES * arrays * num_weights
        server = SERVER_ARRAYS * 8 * num_weights + min(STRETCH_BYTES, cohort_size * update)
        if config.federation.secure_aggregation:
            server += SHARE_BYTES * cohort_size * min(cohort_size, MAX_PARTNERS + 1)
        of_step = together * STEP_BYTES * num_weights
        return cls(at_work + sums, server, update, of_step)

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
