"""The server's side of a round: mean of updates, server optimizer, the backbone's EMA.

Sums are taken in float64 in the order of client ids, so the result depends neither on the order of
the answers nor on the number of processes. P: length of the flat weight vector; S <= P: length of
its shared stretch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from spire_core.config.server import ServerConfig
from spire_core.errors import AggregationError, DivergenceError
from spire_core.federated.aggregation import combine
from spire_core.federated.messages import AdamMoments, Broadcast, ClientUpdate
from spire_core.federated.update_checks import CheckedUpdate, fault_of


@dataclass(frozen=True)
class ServerState:
    """The server's state between rounds; a checkpoint holds this record.

    `weights` and `ema` (P,); `moments` where clients' Adam moments are averaged; `velocity` and
    `second` (P,) of the server optimizer.
    """

    round_idx: int
    weights: np.ndarray
    ema: np.ndarray
    moments: AdamMoments | None = None
    velocity: np.ndarray | None = None
    second: np.ndarray | None = None

    @classmethod
    def initial(cls, weights: np.ndarray) -> "ServerState":
        return cls(round_idx=0, weights=weights, ema=weights.copy())

    @property
    def broadcast(self) -> Broadcast:
        """The message that the clients of the next round receive."""
        return Broadcast(self.weights, self.moments)


def _checked(
    messages: Sequence[ClientUpdate | CheckedUpdate], state: ServerState
) -> list[ClientUpdate]:
    """Return updates that fit each other, by client id; AggregationError if they do not.

    A `CheckedUpdate` of the common size is not scanned again.
    """
    updates = [m.update if isinstance(m, CheckedUpdate) else m for m in messages]
    if not updates:
        raise AggregationError(
            "expected at least one update with examples, got none: there is nothing to average"
        )
    ids = [u.client_id for u in updates]
    if len(set(ids)) != len(ids):
        raise AggregationError(
            f"expected one update per client, got ids {sorted(ids)}: one is repeated"
        )
    first = updates[0]
    before, has_moments = state.weights[: np.size(first.weights)], first.moments is not None
    for message, u in zip(messages, updates, strict=True):
        is_scanned = isinstance(message, CheckedUpdate) and u.weights.shape == before.shape
        if is_scanned and (u.moments is not None) == has_moments:
            continue
        fault = fault_of(u, before, has_moments)
        if fault is not None:
            raise AggregationError(
                f"expected an update that can be averaged, got {fault} from client {u.client_id}: "
                "lower client.lr, or leave this client out"
            )
    return sorted(updates, key=lambda u: u.client_id)


def _shared_mean(
    arrays: Sequence[np.ndarray],
    num_examples: Sequence[int],
    previous: np.ndarray | None,
    config: ServerConfig,
) -> np.ndarray:
    """Return the clients' arrays (S,) combined; numbers beyond the shared stretch stay."""
    mean = combine(arrays, num_examples, config.aggregation, config.trim_fraction)
    if previous is None or previous.size == mean.size:
        return mean
    return np.concatenate([mean, previous[mean.size :]])


def _shared_moments(
    updates: Sequence[ClientUpdate], previous: AdamMoments | None, config: ServerConfig
) -> AdamMoments | None:
    """Return the clients' Adam moments combined as the weights are; without any, the previous ones.

    A robust mean of the weights alone would let a wrong client spoil the next round's steps through
    its moments. Each form of mean keeps second moments non-negative, and it keeps a bound
    m^2 <= c v that holds for every client, so that Adam's steps stay bounded.
    """
    sent = [u.moments for u in updates if u.moments is not None]
    if not sent:
        return previous
    num_examples = [u.num_examples for u in updates]
    before = (None, None, None) if previous is None else previous.arrays
    fields = zip(*(moments.arrays for moments in sent), strict=True)
    return AdamMoments(
        *(
            _shared_mean(arrays, num_examples, kept, config)
            for arrays, kept in zip(fields, before, strict=True)
        )
    )


def _server_step(
    state: ServerState, mean: np.ndarray, shared_size: int, config: ServerConfig
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return new weights, velocity and second moment; the pseudo-gradient is mean minus weights.

    Numbers beyond the shared stretch lose their velocity, so that they stay as they are.
    """
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
        second = np.full_like(delta, config.adaptivity**2)
    second = config.beta2 * second + (1 - config.beta2) * delta**2
    step = config.lr * velocity / (np.sqrt(second) + config.adaptivity)
    return (state.weights + step).astype(np.float32), velocity, second


def aggregate(
    state: ServerState, updates: Sequence[ClientUpdate | CheckedUpdate], config: ServerConfig
) -> ServerState:
    """Return the server's state after a round: mean of updates, server step, EMA.

    An update that is not a `CheckedUpdate` is checked here. Raises AggregationError if there is
    nothing to average or an update does not fit, and DivergenceError if the server's step leads
    out of float32.
    """
    updates = _checked(updates, state)
    num_examples, arrays = [u.num_examples for u in updates], [u.weights for u in updates]
    mean = _shared_mean(arrays, num_examples, state.weights, config)
    with np.errstate(over="ignore"):  # the error below says it in words
        weights, velocity, second = _server_step(state, mean, arrays[0].size, config)
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
        moments=_shared_moments(updates, state.moments, config),
        velocity=velocity,
        second=second,
    )
