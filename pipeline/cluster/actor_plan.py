"""The number of an experiment's client actors and their shares, compared with the cluster."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.config.resources import LEAST_SHARE, ResourcesConfig
from pipeline.config.schema import Config
from spire_core.errors import ClusterError


@dataclass(frozen=True)
class ActorPlan:
    """A number of client actors, each with this share of CPUs and GPUs."""

    num_actors: int
    num_cpus: float
    num_gpus: float

    def describe(self) -> str:
        shares = f"({self.num_cpus:g} CPU, {self.num_gpus:g} GPU)"
        return f"{self.num_actors} client actor{'s' * (self.num_actors != 1)} x {shares}"

    @property
    def words(self) -> list[str]:
        """The settings that ask for these actors."""
        numbers = ("num_actors", self.num_actors), ("num_gpus", self.num_gpus)
        return [f"resources.{name}={value:g}" for name, value in numbers]

    def device(self, config: ResourcesConfig) -> str:
        """Return the kind of device of all actors, as each of them chooses it."""
        return "cuda" if self.num_gpus > 0 and config.device != "cpu" else "cpu"


def plan_on_nodes(
    config: ResourcesConfig, nodes: Sequence[Mapping[str, float]], max_useful: int
) -> ActorPlan:
    """Return the actors to start on nodes with these resources; ClusterError if they do not fit.

    With an automatic share of the GPUs, nodes without a GPU get no actor if others have one.
    `max_useful`: the most actors that `auto` plans (`most_useful_actors`).
    """
    num_cpus, num_actors, num_gpus = config.num_cpus, config.num_actors, config.num_gpus
    have = {name: total(nodes, name) for name in ("CPU", "GPU")}
    least = LEAST_SHARE if have["GPU"] >= 1 else 0.0
    if isinstance(num_actors, str):
        most = num_fitting(nodes, num_cpus, least if isinstance(num_gpus, str) else num_gpus)
        num_actors = max(1, min(most, max_useful))
    if isinstance(num_gpus, str):
        num_gpus = gpu_share(have["GPU"], num_actors)
        while num_gpus > least and num_fitting(nodes, num_cpus, num_gpus) < num_actors:
            # Nodes are not alike.
            num_gpus = gpu_share(1, _floor(1 / num_gpus) + 1)
    plan, fits = ActorPlan(num_actors, num_cpus, num_gpus), num_fitting(nodes, num_cpus, num_gpus)
    if fits < num_actors:
        raise ClusterError(
            f"expected client actors that fit {have['CPU']:g} CPUs and {have['GPU']:g} GPUs on "
            f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}, got {plan.describe()}, of which "
            f"{fits} fit: lower resources.num_actors, num_cpus or num_gpus "
            "(num_actors and num_gpus may be auto)"
        )
    return plan


def total(nodes: Sequence[Mapping[str, float]], name: str) -> float:
    """Return the CPUs or GPUs of all nodes."""
    return sum(node.get(name, 0.0) for node in nodes)


def num_fitting(nodes: Sequence[Mapping[str, float]], num_cpus: float, num_gpus: float) -> int:
    """Return how many actors with these shares fit nodes; a share below 1 is part of one GPU."""
    return sum(_fitting_one(node, num_cpus, num_gpus) for node in nodes)


def _fitting_one(have: Mapping[str, float], num_cpus: float, num_gpus: float) -> int:
    fits = _floor(have.get("CPU", 0.0) / num_cpus)
    gpus = _floor(have.get("GPU", 0.0))
    if num_gpus >= 1:
        return min(fits, _floor(gpus / num_gpus))
    return min(fits, gpus * _floor(1 / num_gpus)) if num_gpus > 0 else fits


def gpu_share(num_gpus: float, num_actors: int) -> float:
    """Return the largest share of a GPU, at most 1, with which all actors fit."""
    if num_gpus < 1:
        return 0.0
    return _floor(1e4 / math.ceil(num_actors / _floor(num_gpus))) / 1e4


def _floor(value: float) -> int:
    """Round down; a sum of shares such as 10 x 0.1 counts as whole."""
    return math.floor(value + 1e-6)


def most_useful_actors(config: Config) -> int:
    """Return the largest number of client actors that rounds or new clients keep at work.

    Evaluations of many clients could use more, which would take memory all the time.
    """
    return max(config.federation.cohort_size, config.federation.num_new_clients)


def present_nodes() -> list[Mapping[str, float]]:
    """Return the resources of the nodes at RAY_ADDRESS, or of this machine."""
    if not os.environ.get("RAY_ADDRESS"):
        return [machine_resources()]
    from pipeline.cluster import session

    with session.cluster():
        return session.cluster_nodes()


def machine_resources() -> dict[str, float]:
    """Return the resources of a Ray cluster on this machine alone."""
    import torch  # imported late: the driver's actor does without

    cpus = allotted_cpus() or os.cpu_count() or 1
    return {"CPU": float(cpus), "GPU": float(torch.cuda.device_count())}


def allotted_cpus() -> int | None:
    """Return how many of this machine's CPUs a job of Slurm has; None outside of one.

    Neither Python nor Ray asks: both count all CPUs of the machine.
    """
    text = os.environ.get("SLURM_CPUS_ON_NODE", "")
    return int(text) or None if text.isdecimal() else None


def choose_device(config: ResourcesConfig, has_gpu: bool) -> str:
    """Return the device of an actor: its share of a GPU, if it has one.

    ClusterError if torch cannot use the GPU: on the CPU a run would silently take many times as
    long.
    """
    if not has_gpu or config.device == "cpu":
        return "cpu"
    import torch

    if not torch.cuda.is_available():
        raise ClusterError(
            "expected a torch that can use the GPU that Ray gave to a client actor, got "
            f"torch {torch.__version__} without one: install torch for CUDA on every node, or set "
            "resources.num_gpus=0 or resources.device=cpu"
        )
    return "cuda"
