"""What each trial of a sweep needs, and how long it takes, before anything starts."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.cluster.actor_plan import (
    ActorPlan,
    gpu_share,
    most_useful_actors,
    num_fitting,
    plan_on_nodes,
)
from pipeline.config.meaning import pretrain_fingerprint
from pipeline.config.schema import Config
from pipeline.experiment.estimate import START_S, adaptation_s, kind_of, measure, pretraining_s
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
    for config in (trial.config for trial in trials if not sweep.autoscaling):
        num_actors, num_gpus = _least(config)
        room = min(room, num_fitting(cluster, config.resources.num_cpus, num_gpus) // num_actors)
    return max(1, min(room, sweep.concurrency or room))


def _least(config: Config) -> tuple[int, float]:
    """Return the number of a trial's actors and their GPUs, with what is on auto at its least."""
    asked = config.resources
    if asked.pool == "local":
        return 1, 0.0
    num_actors, num_gpus = asked.num_actors, asked.num_gpus
    return (
        1 if isinstance(num_actors, str) else num_actors,
        0.0 if isinstance(num_gpus, str) else num_gpus,
    )


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
        fits = num_fitting(cluster, asked.num_cpus, _least(config)[1]) // at_once
        num_actors = max(1, min(fits, most))
    if isinstance(num_gpus, str):
        num_gpus = gpu_share(cluster.get("GPU", 0.0), num_actors * at_once)
    if is_growing:
        return TrialPlan(ActorPlan(num_actors, asked.num_cpus, num_gpus))
    plan = plan_on_nodes(replace(asked, num_actors=num_actors, num_gpus=num_gpus), [cluster], most)
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


def sweep_seconds(
    planned: Sequence[tuple[Trial, TrialPlan]], at_once: int, done: Sequence[Trial] = ()
) -> float:
    """Return the seconds of these trials, `at_once` at a time, after the trials that are done.

    A pre-training that several trials share counts once. Pre-trainings of other sweeps, which may
    be reused, count again. DataError if an image folder is missing.
    """
    measured = functools.cache(measure)
    begun = {pretrain_fingerprint(trial.config) for trial in done}
    total = 0.0
    for trial, plan in planned:
        config, workers = trial.config, plan.workers
        costs, shared = measured(kind_of(config)), pretrain_fingerprint(config)
        work = adaptation_s(config, costs)
        if shared not in begun:
            work += pretraining_s(config, costs)
        begun.add(shared)
        total += START_S + work / (workers.num_actors * min(1.0, workers.num_cpus))
    return total / max(1, min(at_once, len(planned)))
