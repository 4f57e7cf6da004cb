"""What each trial of a sweep needs, and how long it takes, before anything starts."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.clients.rounds import StepCosts
from pipeline.cluster.actor_plan import (
    ActorPlan,
    gpu_share,
    most_useful_actors,
    num_fitting,
    plan_on_nodes,
    total,
)
from pipeline.config.meaning import pretrain_fingerprint
from pipeline.config.schema import Config
from pipeline.experiment.estimate import START_S, costs_of, run_seconds
from sweeps.design.config import SweepConfig
from sweeps.design.points import Trial

Nodes = Sequence[Mapping[str, float]]  # the resources of each
SWEEP_S = 25.0  # Ray, the tracking store, the first trials' processes, and at the end the report
TRIAL_S = 5.0  # a trial's tracking run, and its first features of real images
MOST_SHARING = 8  # actors on a GPU, if that is left to the plan: each process takes memory there


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

    @property
    def num_gpus(self) -> float:
        """The GPUs of the whole trial."""
        return self.workers.num_actors * self.workers.num_gpus

    def describe(self) -> str:
        if self.actors is None:
            return f"1 process ({self.num_cpus:g} CPU)"
        return self.actors.describe()


def concurrency(sweep: SweepConfig, trials: Sequence[Trial], nodes: Nodes) -> int:
    """Return how many trials run at once: as asked for, or as many as the nodes have room for.

    A cluster that grows has room for all.
    """
    room = len(trials)
    for config in (trial.config for trial in trials if not sweep.autoscaling):
        num_actors, num_gpus = _least(config)
        room = min(room, num_fitting(nodes, config.resources.num_cpus, num_gpus) // num_actors)
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


def plan_trial(config: Config, nodes: Nodes, at_once: int, is_growing: bool = False) -> TrialPlan:
    """Return what one trial asks for: what is on auto, it takes from its share of the cluster.

    With actors and their GPUs both on auto, as many GPUs as can be have work. ClusterError if it
    would wait for ever, because the nodes, however empty, have no room: unless more can come.
    """
    asked = config.resources
    if asked.pool == "local":
        if not is_growing:
            plan_on_nodes(replace(asked, num_actors=1, num_gpus=0.0), nodes, 1)
        return TrialPlan(None, asked.num_cpus)
    most, num_actors, num_gpus = most_useful_actors(config), asked.num_actors, asked.num_gpus
    if num_actors == num_gpus == "auto" and total(nodes, "GPU") >= 1:
        num_actors, num_gpus = filling(asked.num_cpus, most, nodes, at_once)
    if isinstance(num_actors, str):
        fits = num_fitting(nodes, asked.num_cpus, _least(config)[1]) // at_once
        num_actors = max(1, min(fits, most))
    if isinstance(num_gpus, str):
        num_gpus = gpu_share(total(nodes, "GPU"), num_actors * at_once)
    if is_growing:
        return TrialPlan(ActorPlan(num_actors, asked.num_cpus, num_gpus))
    plan = plan_on_nodes(replace(asked, num_actors=num_actors, num_gpus=num_gpus), nodes, most)
    # Only an actor can be given up on without the trial.
    outlives = config.federation.client_timeout_s is not None
    needs_actor = asked.num_actors != "auto" or plan.num_gpus > 0 or outlives
    if plan.num_actors == 1 and not needs_actor:  # whose process need not start, then
        return TrialPlan(None, plan.num_cpus)
    return TrialPlan(plan)


def filling(num_cpus: float, most: int, nodes: Nodes, at_once: int) -> tuple[int, float]:
    """Return the actors of each of `at_once` trials, and their shares, that use most of the GPUs.

    Of several that do, those with the fewest actors on a GPU. `most`: the actors that a trial keeps
    at work.
    """
    gpus, fits = int(total(nodes, "GPU")), num_fitting(nodes, num_cpus, 0.0) // at_once
    found = [
        (at_once * num_actors * gpu_share(1, sharing), -sharing, num_actors)
        for sharing in range(1, MOST_SHARING + 1)
        if (num_actors := min(most, fits, gpus * sharing // at_once)) > 0
    ]
    if not found:
        return 1, gpu_share(gpus, at_once)
    _, sharing, num_actors = max(found)
    return num_actors, gpu_share(1, -sharing)


def better_words(trials: Sequence[Trial], nodes: Nodes, used: float) -> list[str]:
    """Return the settings with which these trials at once use more of the GPUs, if any do."""
    if not trials or used > total(nodes, "GPU") - 1:
        return []
    num_cpus = trials[0].config.resources.num_cpus
    most = min(most_useful_actors(trial.config) for trial in trials)
    num_actors, num_gpus = filling(num_cpus, most, nodes, len(trials))
    if len(trials) * num_actors * num_gpus < used + 1:
        return []
    pool = ["resources.pool=ray"] if trials[0].config.resources.pool == "local" else []
    return [*ActorPlan(num_actors, num_cpus, num_gpus).words, *pool]


@dataclass(frozen=True)
class Estimate:
    """The seconds of trials, and the memory of an actor's step, as `measured` on one device."""

    seconds: float
    measured: tuple[StepCosts, ...]


def estimate(
    planned: Sequence[tuple[Trial, TrialPlan]],
    at_once: int,
    nodes: Nodes,
    done: Sequence[Trial] = (),
) -> Estimate:
    """Return the time of these trials, `at_once` at a time, after the trials that are done.

    Each begins when another one ends. Actors that share a device share its speed; CPUs of the nodes
    that nobody asks for are shared too. A pre-training that several trials share counts once.
    Pre-trainings of other sweeps, which may be reused, count again. DataError if an image folder is
    missing.
    """
    at_once = max(1, min(at_once, len(planned)))
    measured = dict[StepCosts, None]()
    begun = {pretrain_fingerprint(trial.config) for trial in done}
    free_at = [SWEEP_S if planned else 0.0] * at_once
    for trial, plan in planned:
        shared = pretrain_fingerprint(trial.config)
        start_s = TRIAL_S if plan.actors is None else START_S
        workers = plan.workers
        num_cpus = max(workers.num_cpus, total(nodes, "CPU") / (at_once * workers.num_actors))
        workers = replace(workers, num_cpus=num_cpus)
        seconds = run_seconds(trial.config, workers, shared not in begun, start_s)
        measured[costs_of(trial.config, workers)] = None
        begun.add(shared)
        heapq.heapreplace(free_at, free_at[0] + seconds)
    return Estimate(max(free_at), tuple(measured))
