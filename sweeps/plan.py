"""What each trial of a sweep needs, compared with the cluster before anything starts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.config import Config
from pipeline.resources import ActorPlan, most_useful_actors, plan_actors
from spire_core.errors import ClusterError
from sweeps.space import SweepConfig, Trial

Resources = Mapping[str, float]


@dataclass(frozen=True)
class TrialPlan:
    """The client actors of a trial; None: its own process does all, on `num_cpus`."""

    actors: ActorPlan | None
    num_cpus: float = 1.0

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
    """Return how many trials run at once: as asked for, or as many as the cluster has room for."""
    room = len(trials)
    for name, field in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
        needs = [getattr(trial.config.resources, field) for trial in trials]
        most = max((need for need in needs if not isinstance(need, str)), default=0.0)
        if most > 0:
            room = min(room, int(cluster.get(name, 0.0) / most + 1e-9))
    return max(1, min(room, sweep.concurrency or room))


def plan_trial(config: Config, cluster: Resources, at_once: int) -> TrialPlan:
    """Return what one trial asks for: what is on auto, it takes from its share of the cluster.

    ClusterError if it asks for more than the whole cluster has.
    """
    asked = config.resources
    if asked.pool == "local":
        return TrialPlan(None, asked.num_cpus)
    most = most_useful_actors(config)
    if asked.num_actors == "auto":
        share = {name: amount / at_once for name, amount in cluster.items()}
        fits = [share.get("CPU", 0.0) / asked.num_cpus]
        if not isinstance(asked.num_gpus, str) and asked.num_gpus > 0:
            fits.append(share.get("GPU", 0.0) / asked.num_gpus)
        asked = replace(asked, num_actors=max(1, min(int(min(fits) + 1e-9), most)))
    if asked.num_gpus == "auto" and not isinstance(asked.num_actors, str):
        per_actor = cluster.get("GPU", 0.0) / at_once / asked.num_actors
        asked = replace(asked, num_gpus=min(1.0, math.floor(per_actor * 1e4) / 1e4))
    return TrialPlan(plan_actors(asked, cluster, most))


def check_nodes(plan: TrialPlan, nodes: Sequence[Resources]) -> None:
    """Raise ClusterError if some actor fits no node, however empty: it would wait for ever."""
    for bundle in plan.bundles:
        if not any(all(node.get(k, 0.0) >= v for k, v in bundle.items()) for node in nodes):
            need = ", ".join(f"{amount:g} {name}" for name, amount in bundle.items())
            best = "; ".join(
                ", ".join(f"{node[k]:g} {k}" for k in ("CPU", "GPU") if node.get(k))
                for node in nodes
            )
            raise ClusterError(
                f"expected a node with {need} for each client actor, got nodes with {best}: lower "
                "resources.num_cpus or resources.num_gpus, or set autoscaling=true if such nodes "
                "can be added"
            )
