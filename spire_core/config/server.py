"""Settings of aggregation and of the server's optimizer (`server.*`)."""

from dataclasses import dataclass

from spire_core.errors import ConfigError


@dataclass(frozen=True)
class ServerConfig:
    """How updates become one, the server optimizer and the decay of the backbone's moving average.

    `aggregation`: "mean" weighted by examples, or, robust against a few wrong updates, coordinate
    by coordinate "median" or "trimmed_mean" (Yin et al. 2018; `means`), in which all clients count
    the same. `trim_fraction`: the share of clients that a trimmed mean leaves out at each end.

    `optimizer` (Reddi et al. 2021): "fedavg" takes the mean of the clients' weights at lr 1 and a
    part of the way to it below; "fedavgm" adds momentum (Hsu et al. 2019); "fedadam" treats the
    mean's distance as a gradient. `ema` is the decay per round, less in the first rounds so that
    the random start is forgotten; 0 keeps no average.
    """

    optimizer: str = "fedavg"
    lr: float = 1.0
    momentum: float = 0.9
    beta2: float = 0.99
    adaptivity: float = 1e-3
    ema: float = 0.95
    aggregation: str = "mean"
    trim_fraction: float = 0.2

    def __post_init__(self) -> None:
        if self.aggregation not in AGGREGATIONS:
            raise ConfigError(
                f"expected server.aggregation as {', '.join(AGGREGATIONS)}, got "
                f"{self.aggregation!r}: choose one"
            )
        if not 0.0 < self.trim_fraction < 0.5:
            raise ConfigError(
                "expected server.trim_fraction above 0 and below 0.5, got "
                f"{self.trim_fraction}: it is left out at both ends, and something has to be left"
            )
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


AGGREGATIONS = ("mean", "median", "trimmed_mean")
