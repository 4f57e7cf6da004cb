"""Settings of the server's optimizer (`server.*`)."""

from dataclasses import dataclass
from typing import Annotated

from spire_core.config.checks import Choice, Range, check_fields


@dataclass(frozen=True)
class ServerConfig:
    """The server's optimizer and the decay of the backbone's moving average.

    `optimizer` (Reddi et al. 2021): "fedavg" takes the mean of the clients' weights at `lr` 1 and a
    part of the way to it below; "fedavgm" adds momentum (Hsu et al. 2019); "fedadam" treats the
    distance to the mean as a gradient. `ema`: the decay per round, smaller in the first rounds so
    that the random start is forgotten; 0 keeps no average.
    """

    optimizer: Annotated[str, Choice("fedavg", "fedavgm", "fedadam")] = "fedavg"
    lr: Annotated[float, Range(above=0, at_most=1000)] = 1.0
    momentum: Annotated[float, Range(0, below=1)] = 0.9
    ema: Annotated[float, Range(0, below=1)] = 0.95

    def __post_init__(self) -> None:
        check_fields(self, "server")

    def ema_decay(self, round_idx: int) -> float:
        """Return the moving average's decay in this round."""
        return min(self.ema, (1 + round_idx) / (10 + round_idx))
