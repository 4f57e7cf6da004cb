"""Settings of how clients are simulated (`resources.*`)."""

from dataclasses import dataclass
from typing import Annotated

from spire_core.config.checks import Choice, Range, check_fields, require

LEAST_SHARE = 1e-4  # Ray counts in ten-thousandths


@dataclass(frozen=True)
class ResourcesConfig:
    """How the clients are simulated.

    `pool`: "ray" for actors, "local" for this process alone. `num_actors`: "auto" fills the
    cluster's CPUs or GPUs. `num_cpus`, `num_gpus`: shares of each client actor; a GPU's share is
    bookkeeping, not a memory limit. `num_gpus` "auto" divides the cluster's GPUs by the actors, and
    is 0 without any. `device`: "auto" computes on a GPU if the actor has a share of one, "cpu"
    never does.
    """

    pool: Annotated[str, Choice("ray", "local")] = "ray"
    num_actors: Annotated[int | str, Range(1, 100_000)] = "auto"
    num_cpus: Annotated[float, Range(LEAST_SHARE, 100_000)] = 1.0
    num_gpus: Annotated[int | float | str, Range(0, 100_000)] = "auto"
    device: Annotated[str, Choice("auto", "cpu")] = "auto"

    def __post_init__(self) -> None:
        check_fields(self, "resources")
        for name in ("num_actors", "num_gpus"):
            value = getattr(self, name)
            is_known = not isinstance(value, str) or value == "auto"
            require(is_known, f"resources.{name} as a number or auto", repr(value), "change it")
        share = 0.0 if isinstance(self.num_gpus, str) else self.num_gpus
        is_share = share == 0 or LEAST_SHARE <= share <= 1 or share % 1 == 0
        expected = f"resources.num_gpus as 0, a share of at least {LEAST_SHARE:g} or a whole number"
        require(is_share, expected, f"{share:g}", "change it")
