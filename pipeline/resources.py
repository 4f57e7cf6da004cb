"""What the client actors of one experiment need, worked out once and compared with the cluster."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spire_core.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from pipeline.schema import Config

LEAST_GPU = 1e-4  # Ray counts in ten-thousandths


@dataclass(frozen=True)
class ResourcesConfig:
    """How the clients are simulated.

    `pool`: "ray" for actors, "local" for this process alone. `num_actors`: "auto" fills the
    cluster's CPUs or GPUs. `num_cpus` and `num_gpus` are per client actor; a GPU's share is
    bookkeeping, not a memory limit. `num_gpus` "auto" divides the cluster's GPUs by the actors, and
    is 0 where there are none. `device`: "auto" computes on a GPU where an actor has a share of one;
    "cpu" never does, and GPUs are for the bookkeeping alone.
    """

    pool: str = "ray"
    num_actors: int | str = "auto"
    num_cpus: float = 1.0
    num_gpus: float | str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.pool not in ("ray", "local"):
            raise ConfigError(
                f"expected resources.pool as ray or local, got {self.pool!r}: choose one"
            )
        if self.device not in ("auto", "cpu"):
            raise ConfigError(
                f"expected resources.device as auto or cpu, got {self.device!r}: choose one"
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
        if 0 < shares[1] < LEAST_GPU:
            raise ConfigError(
                f"expected resources.num_gpus of 0 or at least 0.0001, got {shares[1]}: Ray counts "
                "in ten-thousandths"
            )
        if shares[1] > 1 and shares[1] % 1:
            raise ConfigError(
                f"expected resources.num_gpus as a share of one GPU or a whole number, got "
                f"{shares[1]:g}: change it"
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
    """Return what `plan_on_nodes` does, as if a cluster with these resources were one node."""
    return plan_on_nodes(config, [available], max_useful)


def plan_on_nodes(
    config: ResourcesConfig, nodes: Sequence[Mapping[str, float]], max_useful: int
) -> ActorPlan:
    """Return the actors to start on nodes with these resources; ClusterError if they do not fit.

    A share of the GPUs that is on auto leaves out nodes without one, where others have some.
    `max_useful`: the most actors that could ever work at once, the cohort or the number of clients.
    """

    def fitting(num_gpus: float) -> int:
        return sum(num_fitting(node, config.num_cpus, num_gpus) for node in nodes)

    num_actors, num_gpus = config.num_actors, config.num_gpus
    have = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
    least = LEAST_GPU if have["GPU"] >= 1 else 0.0
    if isinstance(num_actors, str):
        most = fitting(least if isinstance(num_gpus, str) else num_gpus)
        num_actors = max(1, min(most, max_useful))
    if isinstance(num_gpus, str):
        num_gpus = gpu_share(have["GPU"], num_actors)
        while num_gpus > least and fitting(num_gpus) < num_actors:  # nodes are not alike
            num_gpus = gpu_share(1, _floor(1 / num_gpus) + 1)
    plan, fits = ActorPlan(num_actors, config.num_cpus, num_gpus), fitting(num_gpus)
    if fits < num_actors:
        raise ClusterError(
            f"expected client actors that fit {have['CPU']:g} CPUs and {have['GPU']:g} GPUs on "
            f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}, got {plan.describe()}, of which "
            f"{fits} fit: lower resources.num_actors or the share per actor, or leave both on auto"
        )
    return plan


def num_fitting(have: Mapping[str, float], num_cpus: float, num_gpus: float) -> int:
    """Return how many actors with these shares fit; a share below 1 is of one and the same GPU."""
    fits = _floor(have.get("CPU", 0.0) / num_cpus)
    gpus = _floor(have.get("GPU", 0.0))
    if num_gpus >= 1:
        return min(fits, _floor(gpus / num_gpus))
    return min(fits, gpus * _floor(1 / num_gpus)) if num_gpus > 0 else fits


def gpu_share(num_gpus: float, num_actors: int) -> float:
    """Return the largest share with which so many actors fit so many GPUs, at most a whole one."""
    if num_gpus < 1:
        return 0.0
    return _floor(1e4 / math.ceil(num_actors / _floor(num_gpus))) / 1e4


def _floor(value: float) -> int:
    """Round down, but for the error of a sum of shares such as 10 x 0.1."""
    return math.floor(value + 1e-6)


def most_useful_actors(config: "Config") -> int:
    """Return how many client actors could ever work at once in an experiment."""
    return max(config.federation.cohort_size, config.federation.num_new_clients)
