"""The measured memory of a client's work, and the number of actors that fit on a node."""

import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Footprint:
    """Memory that an actor's process needs beyond its idle state, and memory that is free.

    `node` names the place that actors share: the node's memory or, on a GPU, that of the GPU.
    """

    node: str
    need_bytes: int
    free_bytes: int


def resident_bytes() -> int:
    """Return the memory that this process holds now."""
    return psutil.Process().memory_info().rss


def peak_bytes() -> int:
    """Return the most memory that this process has ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024)


def footprint(node: str, before_bytes: int, device: "torch.device") -> Footprint:
    """Return the memory of the first piece of work of this process, which has just ended.

    `before_bytes`: the memory that the process held before that work.
    """
    if device.type == "cuda":
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        name = f"{node} GPU {torch.cuda.get_device_properties(device).uuid}"
        return Footprint(name, torch.cuda.max_memory_reserved(device), free)
    need = max(0, peak_bytes() - before_bytes)
    return Footprint(node, need, psutil.virtual_memory().available)


def kept_positions(footprints: Sequence[Footprint], need_bytes: int) -> list[int]:
    """Return the positions of the actors that fit into their node's memory, the first on each node.

    `need_bytes` is the need of one actor. The smallest measured free memory of a node counts.
    """
    free: dict[str, int] = {}
    for one in footprints:
        free[one.node] = min(one.free_bytes, free.get(one.node, one.free_bytes))
    kept = []
    for position, one in enumerate(footprints):
        if free[one.node] >= need_bytes:
            free[one.node] -= need_bytes
            kept.append(position)
    return kept
