"""What passes between server and clients in a round: the plan, the broadcast, and updates.

Arrays are numpy's, and nothing here imports torch: neither does the server.
P: length of the flat weight vector; S <= P: length of its shared stretch.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Broadcast:
    """What the server hands out: weights (P,) and, where averaged, Adam's moments, steps (3,)."""

    weights: np.ndarray
    exp_avg: np.ndarray | None = None
    exp_avg_sq: np.ndarray | None = None
    steps: np.ndarray | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes that each client of the round receives."""
        return _num_bytes(self)


@dataclass(frozen=True)
class ClientUpdate:
    """What a client returns: its shared weights (S,) after training, and its weight in the average.

    Weights travel, not differences: a float32 difference would lose the last bits, and with one
    client the average has to equal its weights exactly.
    """

    client_id: int
    num_examples: int
    num_steps: int
    loss: float
    weights: np.ndarray
    exp_avg: np.ndarray | None = None
    exp_avg_sq: np.ndarray | None = None
    steps: np.ndarray | None = None
    sent_bytes: int | None = None  # of what it was decoded from, if it travelled compressed

    @property
    def num_bytes(self) -> int:
        """Bytes that this update puts on the wire."""
        return _num_bytes(self) if self.sent_bytes is None else self.sent_bytes


def _num_bytes(message: Broadcast | ClientUpdate) -> int:
    arrays = (message.weights, message.exp_avg, message.exp_avg_sq, message.steps)
    return sum(a.nbytes for a in arrays if a is not None)


@dataclass(frozen=True)
class Encoded:
    """An array (n,) as it travels: its form and the arrays that this form consists of."""

    form: str
    size: int
    arrays: tuple[np.ndarray, ...]

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)


@dataclass(frozen=True)
class CompressedUpdate:
    """A `ClientUpdate` on the wire; `change` (S,) stands for its weights."""

    client_id: int
    num_examples: int
    num_steps: int
    loss: float
    change: Encoded
    exp_avg: Encoded | None = None
    exp_avg_sq: Encoded | None = None
    steps: np.ndarray | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes that this update puts on the wire: indices and scales are counted."""
        parts = [p for p in (self.change, self.exp_avg, self.exp_avg_sq) if p is not None]
        return sum(p.num_bytes for p in parts) + (0 if self.steps is None else self.steps.nbytes)


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Return the number of batches in one pass over the data."""
    return -(-num_examples // batch_size)


@dataclass(frozen=True)
class RoundPlan:
    """What every client of a round is told: which round, how long, how fast, and what is shared.

    `kept_rounds`: after how many rounds the kept checkpoints were taken; a client keeps its states
    of then. `stragglers` are the clients that fall behind, `straggler_work` the share of its steps
    that such a client completes.
    """

    round_idx: int
    lr_scale: float
    shares_local: bool
    tau: int | None = None
    local_epochs: int | None = None
    kept_rounds: tuple[int, ...] = ()
    stragglers: tuple[int, ...] = ()
    straggler_work: float = 1.0

    def num_steps(self, client_id: int, num_examples: int, batch_size: int) -> int:
        """Return the optimizer steps that a client with so many examples takes.

        A straggler does part of the work (Li et al. 2020, FedProx): its share, rounded, and at
        least one step.
        """
        full = self.tau or (self.local_epochs or 0) * steps_per_epoch(num_examples, batch_size)
        return max(1, round(full * self.straggler_work)) if client_id in self.stragglers else full
