"""The messages between server and clients in a round: the plan, the broadcast, the updates.

Arrays are numpy's, and nothing here imports torch: neither does the server.
P: length of the flat weight vector; S <= P: length of its shared stretch.
"""

from dataclasses import dataclass

import numpy as np

from spire_core.privacy.rounds import PrivateRound
from spire_core.secure_sum.protocol import SumPlan


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
        if self.sent_bytes is not None:
            return self.sent_bytes
        return _num_bytes(self.weights, self.moments)


@dataclass(frozen=True)
class UpdateFault:
    """A defect of an update, in words; `is_divergence` if training itself has diverged."""

    text: str
    is_divergence: bool = False

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class IntegerMessage:
    """A client's summand of a sum of integers modulo 2^64: `numbers` (n,) uint64, masked or not.

    They hold all that an update has (`spire_core.federated.integer_updates`). With a `fault`, which
    its client has found, there are none.
    """

    client_id: int
    num_examples: int
    num_steps: int
    numbers: np.ndarray
    fault: UpdateFault | None = None

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The one array."""
        return (self.numbers,)

    @property
    def loss(self) -> None:
        """No loss of a single client is known: it is among the numbers."""

    @property
    def num_bytes(self) -> int:
        """Bytes that this message puts on the wire, without keys and shares."""
        return self.numbers.nbytes


@dataclass(frozen=True)
class ClientReport:
    """A client's part in a round as the driver sees it: the update itself stays in its process.

    `loss`: None if it is in the sum alone. `num_bytes`: of its message. With a fault its update is
    in no sum, and the numbers are zero.
    """

    client_id: int
    num_examples: int = 0
    num_steps: int = 0
    loss: float | None = 0.0
    num_bytes: int = 0
    fault: UpdateFault | None = None


def _num_bytes(weights: np.ndarray, moments: AdamMoments | None) -> int:
    arrays = () if moments is None else moments.arrays
    return sum(array.nbytes for array in (weights, *arrays))


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
class EncodedMoments:
    """`AdamMoments` on the wire; the step counts travel as they are."""

    exp_avg: Encoded
    exp_avg_sq: Encoded
    steps: np.ndarray

    @property
    def num_bytes(self) -> int:
        return self.exp_avg.num_bytes + self.exp_avg_sq.num_bytes + self.steps.nbytes


@dataclass(frozen=True)
class CompressedUpdate:
    """A `ClientUpdate` on the wire; `change` (S,) replaces its weights."""

    client_id: int
    num_examples: int
    num_steps: int
    loss: float
    change: Encoded
    moments: EncodedMoments | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes that this update puts on the wire: indices and scales are counted."""
        return self.change.num_bytes + (0 if self.moments is None else self.moments.num_bytes)


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Return the number of batches in one pass over the data."""
    return -(-num_examples // batch_size)


@dataclass(frozen=True)
class RoundPlan:
    """The settings of one round for all its clients: its number, length, rate, and shared parts.

    `num_examples`: an upper bound on the examples of all its clients together. `kept_rounds` lists
    the rounds after which a kept checkpoint was taken; a client keeps its state of each. `masking`:
    the public part of the secure sum of its updates, if it is one. `private`: clip norm and noise
    of a round with differential privacy, in which each client counts as one example.
    """

    round_idx: int
    lr_scale: float
    shares_local: bool
    num_examples: int = 1 << 20
    tau: int | None = None
    local_epochs: int | None = None
    kept_rounds: tuple[int, ...] = ()
    masking: SumPlan | None = None
    private: PrivateRound | None = None

    @property
    def sums_integers(self) -> bool:
        """Whether clients send integers for one sum, in place of updates."""
        return self.masking is not None or self.private is not None

    def num_steps(self, num_examples: int, batch_size: int) -> int:
        """Return the optimizer steps that a client with so many examples takes."""
        return self.tau or (self.local_epochs or 0) * steps_per_epoch(num_examples, batch_size)
