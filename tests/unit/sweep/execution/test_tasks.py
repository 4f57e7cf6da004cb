"""A trial's task: its configuration stays the user's, and the plan of its actors goes beside it."""

from pathlib import Path

import pytest

from pipeline.cluster.actor_plan import ActorPlan
from pipeline.config.load import load_config
from sweeps.design.config import SweepConfig
from sweeps.design.points import Trial
from sweeps.execution.tasks import TaskMaker
from sweeps.execution.trial import TrialTask


def task_with(cpus: float, *words: str) -> TrialTask:
    config = load_config("smoke", words)
    sweep = SweepConfig(name="sizes", preset="smoke", axes={"adapt.lr": [0.1]})
    maker = TaskMaker(sweep, config, Path("/nowhere"), None, {"CPU": cpus}, at_once=1)
    return maker.task(Trial(config, "smoke", words, {}), {"trial": 0})


def test_an_automatic_number_of_actors_stays_automatic() -> None:
    """So a node with too little memory for all of them goes on with fewer."""
    task = task_with(3.0)
    assert task.config.resources.num_actors == "auto"
    assert task.config.resources.pool == "ray"
    assert task.actors == ActorPlan(3, 1.0, 0.0)


@pytest.mark.parametrize("num_actors", [1, 2])
def test_a_given_number_of_actors_is_what_is_held(num_actors: int) -> None:
    task = task_with(4.0, f"resources.num_actors={num_actors}")
    assert task.config.resources.num_actors == num_actors
    assert task.actors == ActorPlan(num_actors, 1.0, 0.0)


def test_one_process_alone_has_no_actors() -> None:
    task = task_with(1.0)
    assert task.config.resources.pool == "local"
    assert task.actors is None
