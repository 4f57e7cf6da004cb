"""What the client actors of one experiment need, worked out once and compared with the cluster."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spire_core.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from pipeline.config import Config


@dataclass(frozen=True)
class ResourcesConfig:
    """How the clients are simulated.

    `pool`: "ray" for actors, "local" for this process alone. `num_actors`: "auto" fills the
    cluster's CPUs or GPUs. `num_cpus` and `num_gpus` are per client actor; a GPU's share is
    bookkeeping, not a memory limit. `num_gpus` "auto" divides the cluster's GPUs by the actors, and
    is 0 where there are none.
    """

    pool: str = "ray"
    num_actors: int | str = "auto"
    num_cpus: float = 1.0
    num_gpus: float | str = "auto"

    def __post_init__(self) -> None:
        if self.pool not in ("ray", "local"):
            raise ConfigError(
                f"expected resources.pool as ray or local, got {self.pool!r}: choose one"
            )
        if isinstance(self.num_actors, str) and self.num_actors != "auto":
            raise ConfigError(
                f"expected resources.num_actors as a number or auto, got {self.num_actors!r}: "
                "change it"
            )
        if isinstance(self.num_actors, int) and self.num_actors < 1:
            raise ConfigError(
                f"expected resources.num_actors of at least 1, got {self.num_actors}: "
                "auto fills the cluster"
            )
        if isinstance(self.num_gpus, str) and self.num_gpus != "auto":
            raise ConfigError(
                f"expected resources.num_gpus as a number or auto, got {self.num_gpus!r}: change it"
            )
        shares = (self.num_cpus, 0.0 if isinstance(self.num_gpus, str) else self.num_gpus)
        if self.num_cpus <= 0 or min(shares) < 0:
            raise ConfigError(
                "expected resources.num_cpus above 0 and resources.num_gpus of at least 0, got "
                f"{shares}: raise them"
            )


@dataclass(frozen=True)
class ActorPlan:
    """So many client actors, each with this share of CPUs and GPUs."""

    num_actors: int
    num_cpus: float
    num_gpus: float

    def describe(self) -> str:
        return f"{self.num_actors} client actors x ({self.num_cpus:g} CPU, {self.num_gpus:g} GPU)"


def plan_actors(
    config: ResourcesConfig, available: Mapping[str, float], max_useful: int
) -> ActorPlan:
    """Return the actors to start on a cluster with these resources; ClusterError if none can fit.

    `max_useful`: the most actors that could ever work at once, the cohort or the number of clients.
    """
    cpus, gpus = available.get("CPU", 0.0), available.get("GPU", 0.0)
    num_actors, num_gpus = config.num_actors, config.num_gpus
    if isinstance(num_actors, str):
        fits = int(cpus // config.num_cpus)
        if not isinstance(num_gpus, str) and num_gpus > 0:
            fits = min(fits, int(gpus / num_gpus + 1e-9))
        num_actors = max(1, min(fits, max_useful))
    if isinstance(num_gpus, str):
        num_gpus = min(1.0, int(gpus / num_actors * 1e4) / 1e4) if gpus else 0.0
    plan = ActorPlan(num_actors, config.num_cpus, num_gpus)
    for name, need, have in (
        ("CPUs", num_actors * config.num_cpus, cpus),
        ("GPUs", num_actors * num_gpus, gpus),
    ):
        if need > have + 1e-6:
            raise ClusterError(
                f"expected at most {have:g} {name} for {plan.describe()}, got a need of {need:g}: "
                "lower resources.num_actors or the share per actor, or leave both on auto"
            )
    return plan


def most_useful_actors(config: "Config") -> int:
    """Return how many client actors could ever work at once in an experiment."""
    return max(config.federation.cohort_size, config.federation.num_new_clients)
