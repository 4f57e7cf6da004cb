"""The server's state, and its step after a round: server optimizer, the backbone's EMA.

P: length of the flat weight vector; S <= P: length of its shared stretch.
"""

from dataclasses import dataclass, replace

import numpy as np

from spire_core.config.checks import require
from spire_core.config.server import ServerConfig
from spire_core.errors import DivergenceError
from spire_core.federated.messages import AdamMoments, Broadcast
from spire_core.federated.sums import MeanUpdate
from spire_core.methods import ServerStep

BETA2, ADAPTIVITY = 0.99, 1e-3  # of FedAdam; the second is called tau by Reddi et al. 2021


@dataclass(frozen=True)
class ServerState:
    """The server's state between rounds; a checkpoint holds this record.

    `weights` and `ema` (P,); `moments` where clients' Adam moments are averaged; `velocity` and
    `second` (P,) of the server optimizer. With differential privacy `releases` (1,), the number of
    noisy sums that are published, and `clip_norm` (1,) of the next.
    """

    round_idx: int
    weights: np.ndarray
    ema: np.ndarray
    moments: AdamMoments | None = None
    velocity: np.ndarray | None = None
    second: np.ndarray | None = None
    releases: np.ndarray | None = None
    clip_norm: np.ndarray | None = None

    @classmethod
    def initial(cls, weights: np.ndarray) -> "ServerState":
        return cls(round_idx=0, weights=weights, ema=weights.copy())

    @property
    def broadcast(self) -> Broadcast:
        """The message that the clients of the next round receive."""
        return Broadcast(self.weights, self.moments)


def _whole(shared: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
    """Return an array of the shared stretch with the numbers beyond it, which stay."""
    if previous is None or previous.size == shared.size:
        return shared
    return np.concatenate([shared, previous[shared.size :]])


def _next_moments(sent: AdamMoments | None, previous: AdamMoments | None) -> AdamMoments | None:
    """Return the clients' Adam moments, combined as the weights are; without any, the previous.

    The mean keeps second moments non-negative, and it keeps a bound m^2 <= c v that holds for every
    client, so that Adam's steps stay bounded.
    """
    if sent is None:
        return previous
    before = (None, None, None) if previous is None else previous.arrays
    return AdamMoments(*map(_whole, sent.arrays, before))


def _server_step(
    state: ServerState,
    mean: np.ndarray,
    shared_size: int,
    config: ServerConfig,
    own_step: ServerStep | None,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return new weights, velocity and second moment; the pseudo-gradient is mean minus weights.

    Numbers beyond the shared stretch lose their velocity, so that they stay as they are.
    """
    if own_step is not None:
        new, at = np.array([state.weights, np.zeros_like(mean)], np.float64), slice(shared_size)
        before = new[1, at] if state.velocity is None else state.velocity[at]
        found = own_step(new[0, at].copy(), mean[at].astype(np.float64), before.copy())
        expected = "the next weights and velocity of a method's server_step"
        require(len(found) == 2, expected, f"{len(found)} values", "return both")
        new[:, at] = found
        return new[0].astype(np.float32), new[1], None
    if config.optimizer == "fedavg" and config.lr == 1.0:
        return mean, None, None
    delta = mean.astype(np.float64) - state.weights
    if config.optimizer == "fedavg":
        return (state.weights + config.lr * delta).astype(np.float32), None, None
    previous = np.zeros_like(delta) if state.velocity is None else state.velocity
    if config.optimizer == "fedavgm":
        velocity = config.momentum * previous + delta
        velocity[shared_size:] = 0.0
        return (state.weights + config.lr * velocity).astype(np.float32), velocity, None
    velocity = config.momentum * previous + (1 - config.momentum) * delta
    velocity[shared_size:] = 0.0
    second = state.second
    if second is None:  # at least adaptivity^2, as in algorithm 2 of Reddi et al.
        second = np.full_like(delta, ADAPTIVITY**2)
    second = BETA2 * second + (1 - BETA2) * delta**2
    step = config.lr * velocity / (np.sqrt(second) + ADAPTIVITY)
    return (state.weights + step).astype(np.float32), velocity, second


def aggregate(
    state: ServerState,
    mean: MeanUpdate,
    config: ServerConfig,
    own_step: ServerStep | None = None,
) -> ServerState:
    """Return the server's state after a round: server step towards the mean update, EMA.

    `own_step`: a method's, in the place of the settings' optimizer. Raises DivergenceError if the
    server's step leads out of float32.
    """
    whole = _whole(mean.weights, state.weights)
    with np.errstate(over="ignore"):  # the error below says it in words
        size = mean.weights.size
        weights, velocity, second = _server_step(state, whole, size, config, own_step)
    if not np.isfinite(weights).all():
        raise DivergenceError(
            "expected finite weights after the server's step, got infinity or NaN in round "
            f"{state.round_idx}: lower server.lr or server.momentum"
        )
    decay = config.ema_decay(state.round_idx)
    ema = (decay * state.ema.astype(np.float64) + (1 - decay) * weights).astype(np.float32)
    return replace(
        state,
        round_idx=state.round_idx + 1,
        weights=weights,
        ema=ema,
        moments=_next_moments(mean.moments, state.moments),
        velocity=velocity,
        second=second,
    )
