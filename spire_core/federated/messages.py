"""The messages between server and clients in a round: the plan, the broadcast, the updates.

Arrays are numpy's, and nothing here imports torch: neither does the server.
P: length of the flat weight vector; S <= P: length of its shared stretch.
"""

from dataclasses import dataclass

import numpy as np

from spire_core.privacy.guarantee import PrivateRound


@dataclass(frozen=True)
class AdamMoments:
    """Adam's state beside a weight vector (S,): both moments (S,), and each part's steps (4,)."""

    exp_avg: np.ndarray
    exp_avg_sq: np.ndarray
    steps: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The three arrays, in the order of the fields."""
        return self.exp_avg, self.exp_avg_sq, self.steps


@dataclass(frozen=True)
class Broadcast:
    """The server's message to the cohort: weights (P,), and Adam's moments if it averages them."""

    weights: np.ndarray
    moments: AdamMoments | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes that each client of the round receives."""
        return _num_bytes(self.weights, self.moments)


@dataclass(frozen=True)
class ClientUpdate:
    """A client's answer: its shared weights (S,) after training, and its weight in the average.

    Weights travel, not differences: a float32 difference would lose the last bits, and with one
    client the average has to equal its weights exactly.
    """

    client_id: int
    num_examples: int
    num_steps: int
    loss: float
    weights: np.ndarray
    moments: AdamMoments | None = None
    sent_bytes: int | None = None  # of the compressed message that it was decoded from, if any

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The arrays: weights and, if they are sent, both moments and the steps."""
        return (self.weights,) if self.moments is None else (self.weights, *self.moments.arrays)

    @property
    def num_bytes(self) -> int:
        """Bytes that this update puts on the wire."""
        return self.sent_bytes or _num_bytes(self.weights, self.moments)


@dataclass(frozen=True)
class ClientReport:
    """What the driver is told of a client's round; `loss` is None where single losses are hidden.

    `num_examples` is the client's weight in the average.
    """

    client_id: int
    num_examples: int
    num_steps: int
    loss: float | None
    num_bytes: int


def _num_bytes(weights: np.ndarray, moments: AdamMoments | None) -> int:
    arrays = () if moments is None else moments.arrays
    return sum(array.nbytes for array in (weights, *arrays))


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Return the number of batches in one pass over the data."""
    return -(-num_examples // batch_size)


@dataclass(frozen=True)
class RoundPlan:
    """The settings of one round for all its clients: its number, length, rate, and shared parts.

    `num_examples`: those of all its clients together, or more. `kept_rounds` lists the rounds after
    which a kept checkpoint was taken; a client keeps its state of each. `is_secure`: the server
    sees the sum of the updates alone. `private`: clip norm and noise of a round with differential
    privacy, in which each client counts as one example.
    """

    round_idx: int
    lr_scale: float
    shares_local: bool
    num_examples: int = 1 << 20
    tau: int | None = None
    local_epochs: int | None = None
    kept_rounds: tuple[int, ...] = ()
    is_secure: bool = False
    private: PrivateRound | None = None

    @property
    def hides_updates(self) -> bool:
        """Whether clients send integers for one sum, in place of updates."""
        return self.is_secure or self.private is not None

    def num_steps(self, num_examples: int, batch_size: int) -> int:
        """Return the optimizer steps that a client with so many examples takes."""
        return self.tau or (self.local_epochs or 0) * steps_per_epoch(num_examples, batch_size)
