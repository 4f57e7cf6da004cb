"""What each trial of a sweep needs, compared with the cluster before anything starts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.cluster.actor_plan import (
    ActorPlan,
    gpu_share,
    most_useful_actors,
    num_fitting,
    plan_actors,
)
from pipeline.config.schema import Config
from spire_core.errors import ClusterError
from sweeps.design.config import SweepConfig
from sweeps.design.points import Trial

Resources = Mapping[str, float]


@dataclass(frozen=True)
class TrialPlan:
    """The client actors of a trial; None: its own process does all, on `num_cpus`."""

    actors: ActorPlan | None
    num_cpus: float = 1.0

    @property
    def workers(self) -> ActorPlan:
        """What does the clients' work: the actors, or the trial's own process as if it were one."""
        return self.actors or ActorPlan(1, self.num_cpus, 0.0)

    @property
    def bundles(self) -> list[dict[str, float]]:
        """What the trial's placement group holds: its own process first, then the actors."""
        if self.actors is None:
            return [{"CPU": self.num_cpus}]
        share = {"CPU": self.actors.num_cpus, "GPU": self.actors.num_gpus}
        actor = {name: amount for name, amount in share.items() if amount > 0}
        return [{}] + [dict(actor) for _ in range(self.actors.num_actors)]

    def describe(self) -> str:
        if self.actors is None:
            return f"1 process ({self.num_cpus:g} CPU)"
        return self.actors.describe()


def concurrency(sweep: SweepConfig, trials: Sequence[Trial], cluster: Resources) -> int:
    """Return how many trials run at once: as asked for, or as many as the cluster has room for.

    A cluster that grows has room for all.
    """
    room = len(trials)
    if not sweep.autoscaling:
        room = min([room, *(_room(trial.config, cluster) for trial in trials)])
    return max(1, min(room, sweep.concurrency or room))


def _room(config: Config, cluster: Resources) -> int:
    """Return how many trials like this one fit, with what is on auto at its least."""
    asked = config.resources
    if asked.pool == "local":
        return num_fitting(cluster, asked.num_cpus, 0.0)
    num_actors = 1 if isinstance(asked.num_actors, str) else asked.num_actors
    return num_fitting(cluster, asked.num_cpus, _least_gpus(config)) // num_actors


def _least_gpus(config: Config) -> float:
    asked = config.resources.num_gpus
    return 0.0 if isinstance(asked, str) else asked


def plan_trial(
    config: Config, cluster: Resources, at_once: int, is_growing: bool = False
) -> TrialPlan:
    """Return what one trial asks for: what is on auto, it takes from its share of the cluster.

    ClusterError if it asks for more than the whole cluster has, unless that is growing.
    """
    asked = config.resources
    if asked.pool == "local":
        return TrialPlan(None, asked.num_cpus)
    most, num_actors, num_gpus = most_useful_actors(config), asked.num_actors, asked.num_gpus
    if isinstance(num_actors, str):
        fits = num_fitting(cluster, asked.num_cpus, _least_gpus(config)) // at_once
        num_actors = max(1, min(fits, most))
    if isinstance(num_gpus, str):
        num_gpus = gpu_share(cluster.get("GPU", 0.0), num_actors * at_once)
    if is_growing:
        return TrialPlan(ActorPlan(num_actors, asked.num_cpus, num_gpus))
    plan = plan_actors(replace(asked, num_actors=num_actors, num_gpus=num_gpus), cluster, most)
    # Only an actor can be given up on without the trial.
    outlives = config.federation.client_timeout_s is not None
    needs_actor = asked.num_actors != "auto" or plan.num_gpus > 0 or outlives
    if plan.num_actors == 1 and not needs_actor:  # whose process need not start, then
        return TrialPlan(None, plan.num_cpus)
    return TrialPlan(plan)


def check_nodes(plan: TrialPlan, nodes: Sequence[Resources]) -> None:
    """Raise ClusterError if the nodes, however empty, have no room: a trial would wait for ever."""
    workers = plan.workers
    fits = sum(num_fitting(node, workers.num_cpus, workers.num_gpus) for node in nodes)
    if fits < workers.num_actors:
        have = [", ".join(f"{n[k]:g} {k}" for k in ("CPU", "GPU") if n.get(k)) for n in nodes]
        raise ClusterError(
            f"expected nodes with room for {plan.describe()}, got nodes with "
            f"{'; '.join(filter(None, have)) or 'neither CPU nor GPU'}, where {fits} fit: lower "
            "resources.num_actors, resources.num_cpus or resources.num_gpus, or set "
            "autoscaling=true if nodes can be added"
        )
