"""Counter-based randomness: each draw is a function of (seed, purpose, counters), not of history.

A client's draws in a round therefore depend neither on the process that computes them nor on that
process's earlier draws. `purpose` is a short word such as "batch" or "client_emb"; counters are
integers such as the client's id and the round.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(seed: int, purpose: str, *counters: int) -> int:
    """Return a 63-bit integer that depends on all arguments (the head of a SHA-256)."""
    text = "/".join([str(int(seed)), purpose, *(str(int(c)) for c in counters)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, purpose: str, *counters: int) -> "torch.Generator":
    """Return a CPU `torch.Generator` for one purpose; equal arguments give equal streams.

    Torch's CPU generator keeps 32 bits of a seed: of N streams about N^2 / 2^33 pairs are equal.
    """
    import torch

    return torch.Generator().manual_seed(derive_seed(seed, purpose, *counters))


def numpy_generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """Return a `numpy.random.Generator` for one purpose; equal arguments give equal streams."""
    return np.random.default_rng(derive_seed(seed, purpose, *counters))
