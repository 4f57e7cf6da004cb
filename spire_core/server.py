"""The server's side of a round: weighted mean of updates, server optimizer, the backbone's EMA.

Sums are taken in float64 in the order of client ids, so the result depends neither on who answered
first nor on how many processes there were. P: length of the flat weight vector; S <= P: length of
the stretch that is shared.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from spire_core.client import Broadcast, ClientUpdate
from spire_core.errors import AggregationError, ConfigError


@dataclass(frozen=True)
class ServerConfig:
    """The server optimizer (Reddi et al. 2021) and the decay of the backbone's moving average.

    "fedavg" takes the mean of the clients' weights at lr 1 and a part of the way to it below;
    "fedavgm" adds momentum (Hsu et al. 2019); "fedadam" treats the mean's distance as a gradient.
    `ema` is the decay per round, less in the first rounds so that the random start is forgotten; 0
    keeps no average.
    """

    optimizer: str = "fedavg"
    lr: float = 1.0
    momentum: float = 0.9
    beta2: float = 0.99
    adaptivity: float = 1e-3
    ema: float = 0.95

    def __post_init__(self) -> None:
        if self.optimizer not in ("fedavg", "fedavgm", "fedadam"):
            raise ConfigError(
                f"expected server.optimizer as fedavg, fedavgm or fedadam, got {self.optimizer!r}: "
                "choose one"
            )
        if self.lr <= 0 or self.adaptivity <= 0:
            raise ConfigError(
                f"expected server.lr and server.adaptivity above 0, got {self.lr} and "
                f"{self.adaptivity}: raise them"
            )
        for name in ("momentum", "beta2", "ema"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(
                    f"expected server.{name} in [0, 1), got {getattr(self, name)}: lower it below 1"
                )

    def ema_decay(self, round_idx: int) -> float:
        """Return the moving average's decay in this round."""
        return min(self.ema, (1 + round_idx) / (10 + round_idx))


@dataclass(frozen=True)
class ServerState:
    """All that passes between rounds on the server: a checkpoint is this record.

    `weights` and `ema` (P,); `exp_avg`, `exp_avg_sq` (P,) and `steps` (3,) when clients' Adam
    moments are averaged; `velocity` and `second` (P,) of the server optimizer.
    """

    round_idx: int
    weights: np.ndarray
    ema: np.ndarray
    exp_avg: np.ndarray | None = None
    exp_avg_sq: np.ndarray | None = None
    steps: np.ndarray | None = None
    velocity: np.ndarray | None = None
    second: np.ndarray | None = None

    @classmethod
    def initial(cls, weights: np.ndarray) -> "ServerState":
        return cls(round_idx=0, weights=weights, ema=weights.copy())

    @property
    def broadcast(self) -> Broadcast:
        """What a round hands out to its clients."""
        return Broadcast(self.weights, self.exp_avg, self.exp_avg_sq, self.steps)


def fault_of(update: ClientUpdate, before: np.ndarray, max_norm: float | None = None) -> str | None:
    """Return what makes an update unfit to be averaged, or None.

    `before` (S,) are the shared weights that it started from, `max_norm` the most that it may be
    away from them.
    """
    moments = (update.exp_avg, update.exp_avg_sq)
    if update.num_examples <= 0:
        return f"{update.num_examples} examples"
    if update.weights.shape != before.shape:
        return f"{update.weights.size} numbers instead of {before.size}"
    if any(m is not None and m.shape != before.shape for m in moments):
        return "Adam moments of another size than the weights"
    arrays = (update.weights, *moments, update.steps)
    if not all(np.isfinite(array).all() for array in arrays if array is not None):
        return "NaN or infinity"
    if max_norm is not None:
        norm = float(np.linalg.norm(update.weights.astype(np.float64) - before))
        if norm > max_norm:
            return f"a change of norm {norm:.3g}, above {max_norm:g},"
    return None


def _check(updates: Sequence[ClientUpdate], state: ServerState) -> None:
    if not updates:
        raise AggregationError(
            "expected at least one update with examples, got none: there is nothing to average"
        )
    ids = [u.client_id for u in updates]
    if len(set(ids)) != len(ids):
        raise AggregationError(
            f"expected one update per client, got ids {sorted(ids)}: one is repeated"
        )
    for u in updates:
        fault = fault_of(u, state.weights[: updates[0].weights.size])
        if fault is not None:
            raise AggregationError(
                f"expected an update that can be averaged, got {fault} from client {u.client_id}: "
                "lower client.lr, or leave this client out"
            )


def weighted_mean(arrays: Sequence[np.ndarray], weights: Sequence[int]) -> np.ndarray:
    """Return sum_k n_k a_k / sum_k n_k as float32 (McMahan et al. 2017).

    It is summed in float64 in the given order.
    """
    total = np.zeros(arrays[0].shape, dtype=np.float64)
    for array, weight in zip(arrays, weights, strict=True):
        total += weight * array.astype(np.float64)
    return (total / sum(weights)).astype(np.float32)


def _shared_mean(
    updates: Sequence[ClientUpdate], field: str, previous: np.ndarray | None
) -> np.ndarray | None:
    """Return the mean of one field over clients; what lies beyond the shared stretch stays."""
    if getattr(updates[0], field) is None:
        return previous
    mean = weighted_mean([getattr(u, field) for u in updates], [u.num_examples for u in updates])
    if previous is None or previous.size == mean.size:
        return mean
    return np.concatenate([mean, previous[mean.size :]])


def _server_step(
    state: ServerState, mean: np.ndarray, config: ServerConfig
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Return new weights, velocity and second moment; the pseudo-gradient is mean minus weights."""
    if config.optimizer == "fedavg" and config.lr == 1.0:
        return mean, None, None
    delta = mean.astype(np.float64) - state.weights
    if config.optimizer == "fedavg":
        return (state.weights + config.lr * delta).astype(np.float32), None, None
    previous = np.zeros_like(delta) if state.velocity is None else state.velocity
    if config.optimizer == "fedavgm":
        velocity = config.momentum * previous + delta
        return (state.weights + config.lr * velocity).astype(np.float32), velocity, None
    velocity = config.momentum * previous + (1 - config.momentum) * delta
    second = np.zeros_like(delta) if state.second is None else state.second
    second = config.beta2 * second + (1 - config.beta2) * delta**2
    step = config.lr * velocity / (np.sqrt(second) + config.adaptivity)
    return (state.weights + step).astype(np.float32), velocity, second


def aggregate(
    state: ServerState, updates: Sequence[ClientUpdate], config: ServerConfig
) -> ServerState:
    """Return the server's state after a round: weighted mean, server step, EMA.

    Raises AggregationError if there is nothing to average or an update does not fit.
    """
    _check(updates, state)
    updates = sorted(updates, key=lambda u: u.client_id)
    mean = _shared_mean(updates, "weights", state.weights)
    assert mean is not None
    weights, velocity, second = _server_step(state, mean, config)
    decay = config.ema_decay(state.round_idx)
    ema = (decay * state.ema.astype(np.float64) + (1 - decay) * weights).astype(np.float32)
    return replace(
        state,
        round_idx=state.round_idx + 1,
        weights=weights,
        ema=ema,
        exp_avg=_shared_mean(updates, "exp_avg", state.exp_avg),
        exp_avg_sq=_shared_mean(updates, "exp_avg_sq", state.exp_avg_sq),
        steps=_shared_mean(updates, "steps", state.steps),
        velocity=velocity,
        second=second,
    )
