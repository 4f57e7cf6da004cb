"""What trials ask of a cluster, and what is refused because it could never be had."""

import json
from pathlib import Path
from typing import Any

import pytest
from trial_runs import begun

from pipeline.cluster.actor_plan import ActorPlan, plan_on_nodes
from pipeline.config.resources import ResourcesConfig
from pipeline.config.tracking import TrackingConfig
from spire_core.errors import ClusterError, SpireError
from sweeps.cli import main, plan_json, plan_text
from sweeps.design.config import SweepConfig
from sweeps.design.points import trials
from sweeps.design.trial_plan import TrialPlan, concurrency, plan_trial
from sweeps.execution.study import Study
from sweeps.sweep import check_data

TWO = {"CPU": 2.0}
NODE = {"CPU": 8.0, "GPU": 1.0}


def sweep_of(resources: dict[str, Any], num_trials: int = 4, **values: Any) -> SweepConfig:
    settings = {f"resources.{key}": value for key, value in resources.items()}
    seeds = tuple(range(num_trials))
    return SweepConfig(name="test", preset="smoke", settings=settings, seeds=seeds, **values)


def planned(sweep: SweepConfig, cluster: dict[str, float]) -> tuple[int, TrialPlan]:
    found = trials(sweep)
    at_once = concurrency(sweep, found, [cluster])
    return at_once, plan_trial(found[0].config, [cluster], at_once, sweep.autoscaling)


def plan_of(resources: dict[str, Any], cluster: dict[str, float], **more: Any) -> Any:
    at_once, plan = planned(sweep_of(resources, **more), cluster)
    workers = plan.workers
    return at_once, workers.num_actors, workers.num_cpus, workers.num_gpus


def test_trials_at_once_share_the_cluster() -> None:
    assert plan_of({}, TWO) == (2, 1, 1.0, 0.0)
    assert plan_of({}, {"CPU": 1.0}) == (1, 1, 1.0, 0.0)
    assert plan_of({}, TWO, concurrency=1) == (1, 2, 1.0, 0.0)
    assert plan_of({}, {"CPU": 64.0}) == (4, 4, 1.0, 0.0)  # a cohort has 4 clients
    assert plan_of({"num_cpus": 0.1}, {"CPU": 1.0}) == (4, 2, 0.1, 0.0)
    assert plan_of({"num_actors": 2}, {"CPU": 5.0}) == (2, 2, 1.0, 0.0)


def test_gpus_are_shared_in_fractions_of_one() -> None:
    assert plan_of({}, {"CPU": 16.0, "GPU": 1.0}) == (4, 1, 1.0, 0.25)
    four_nodes = {"CPU": 256.0, "GPU": 32.0}
    assert plan_of({}, four_nodes, num_trials=18) == (18, 3, 1.0, 0.5)  # of which 27 GPUs have work
    assert plan_of({}, four_nodes, num_trials=100) == (100, 2, 1.0, 0.1428)
    assert plan_of({}, {"CPU": 16.0, "GPU": 32.0}, num_trials=9) == (9, 1, 1.0, 1.0)
    assert plan_of({"num_gpus": 0.25}, {"CPU": 16.0, "GPU": 1.0}) == (4, 1, 1.0, 0.25)
    four = {"num_gpus": 0.25, "num_actors": 4}
    assert plan_of(four, {"CPU": 16.0, "GPU": 1.0}) == (1, 4, 1.0, 0.25)
    assert plan_of(four, {"CPU": 16.0, "GPU": 2.0}) == (2, 4, 1.0, 0.25)
    assert plan_of({}, {"CPU": 16.0, "GPU": 4.0}, num_trials=1) == (1, 4, 1.0, 1.0)
    three = {"num_actors": 3}  # of 2/3 GPU only one fits a GPU
    assert plan_of(three, {"CPU": 8.0, "GPU": 2.0}, num_trials=1) == (1, 3, 1.0, 0.5)
    plan = plan_on_nodes(ResourcesConfig(num_actors=3), [{"CPU": 8.0, "GPU": 2.0}], 4)
    assert plan.num_gpus == 0.5


def test_a_placement_group_holds_the_trial_itself_and_its_actors() -> None:
    _, plan = planned(sweep_of({"num_actors": 2, "num_gpus": 0.25}), NODE)
    assert plan.bundles == [{}, {"CPU": 1.0, "GPU": 0.25}, {"CPU": 1.0, "GPU": 0.25}]
    _, plan = planned(sweep_of({"num_actors": 1}), TWO)
    assert plan.bundles == [{}, {"CPU": 1.0}]


def test_a_local_pool_is_one_process() -> None:
    at_once, plan = planned(sweep_of({"pool": "local", "num_gpus": 1.0}), TWO)
    assert (at_once, plan.bundles) == (2, [{"CPU": 1.0}])
    at_once, plan = planned(sweep_of({"pool": "local", "num_cpus": 2}), TWO)
    assert (at_once, plan.describe()) == (1, "1 process (2 CPU)")
    [trial] = trials(sweep_of({"pool": "local", "num_cpus": 4}, num_trials=1))
    with pytest.raises(ClusterError, match=r"on 2 nodes, got 1 .* \(4 CPU, 0 GPU\)"):
        plan_trial(trial.config, [TWO, TWO], 1)


def test_a_trial_with_one_actor_of_its_own_choice_is_one_process() -> None:
    at_once, plan = planned(sweep_of({"num_cpus": 0.6}), TWO)
    assert (at_once, plan.actors, plan.bundles) == (3, None, [{"CPU": 0.6}])
    assert plan.describe() == "1 process (0.6 CPU)"
    assert planned(sweep_of({}), {"CPU": 2.0, "GPU": 1.0})[1].actors is not None
    limited = {"federation.client_timeout_s": 9.0}
    sweep = SweepConfig(name="test", preset="smoke", settings=limited, seeds=(0, 1))
    assert planned(sweep, TWO)[1].actors is not None


@pytest.mark.parametrize(
    "resources",
    [{"num_actors": 3}, {"num_cpus": 3}, {"num_gpus": 0.5}],
)
def test_more_than_the_whole_cluster_is_refused(resources: dict[str, Any]) -> None:
    with pytest.raises(ClusterError, match=r"^expected .*got .*: lower resources\.num_actors"):
        planned(sweep_of(resources), TWO)


@pytest.mark.parametrize(
    ("actors", "nodes", "fits"),
    [
        (ActorPlan(1, 6.0, 0.0), [{"CPU": 4.0}, {"CPU": 4.0}], 0),
        (ActorPlan(3, 1.0, 0.6), [NODE, NODE], 2),
        (ActorPlan(2, 1.0, 0.5), [{"CPU": 8.0}, {"CPU": 1.0, "GPU": 1.0}], 1),
    ],
)
def test_what_no_nodes_could_ever_place_is_refused(
    actors: ActorPlan, nodes: list[dict[str, float]], fits: int
) -> None:
    asked = {"num_actors": actors.num_actors, "num_cpus": actors.num_cpus}
    [trial] = trials(sweep_of(asked | {"num_gpus": actors.num_gpus}, num_trials=1))
    with pytest.raises(ClusterError, match=f"of which {fits} fit: lower "):
        plan_trial(trial.config, nodes, 1)
    assert plan_trial(trial.config, [{"CPU": 64.0, "GPU": 8.0}], 1).actors == actors


def test_a_cluster_that_grows_is_asked_for_what_it_does_not_have_yet() -> None:
    sweep = sweep_of({"num_actors": 2, "num_gpus": 0.5, "num_cpus": 4}, autoscaling=True)
    for head in ({}, {"CPU": 2.0}, {"CPU": 2.0, "GPU": 0.0}):
        at_once, plan = planned(sweep, head)
        assert at_once == 4  # all of them wait for nodes
        assert plan.bundles == [{}, {"CPU": 4.0, "GPU": 0.5}, {"CPU": 4.0, "GPU": 0.5}]


@pytest.mark.parametrize(
    ("settings", "axis", "told"),
    [
        ({}, {"data.image_size": [28, 30]}, "expected data.image_size divisible by 4 .* got 30"),
        (
            {"partition.name": "iid", "partition.client_size": 40},
            {"partition.test_fraction": [0.2, 0.05]},
            "at least 4 real images for each client",
        ),
    ],
)
def test_mistakes_of_any_trial_are_found_before_it_starts(
    settings: dict[str, Any], axis: dict[str, Any], told: str, mnist_root: Path
) -> None:
    sweep = SweepConfig("a", "smoke", {"data.root": str(mnist_root), **settings}, axis)
    first, _ = found = trials(sweep)
    check_data([first], print)
    with pytest.raises(SpireError, match=told):
        check_data(found, print)


def test_a_dry_run_in_between_tells_what_is_left(tmp_path: Path) -> None:
    sweep = sweep_of({"pool": "local"}, axes={"method": ["fedavg"], "model.d_emb": [4, 8]})
    tracking = TrackingConfig(enabled=False, root=str(tmp_path))
    study = Study.of(sweep, tracking)
    first, second, third, _ = trials(sweep)
    begun(study, first.trial_id, tracking, {})
    begun(study, second.trial_id, tracking)
    study.fail(third.trial_id, "expected x, got y: z")
    told = plan_json(sweep, study, [{"CPU": 4.0}])
    statuses = ["finished", "unfinished", "failed", "unfinished"]
    assert [row["status"] for row in told["trials"]] == statuses
    assert (told["num_trials"], told["num_to_run"]) == (4, 2)
    assert "4 trials, 2 of them left" in plan_text(told)
    assert "\n4 of 8 trials are equal to others: 4 run\n" in plan_text(told)
    assert plan_json(sweep, study, [{"CPU": 4.0}], retry_failed=True)["num_to_run"] == 3


def test_a_plan_names_the_settings_that_give_idle_gpus_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPIRE_ROOT", str(tmp_path))
    asked = ["resources.num_gpus=0.25", "resources.num_actors=1"]
    seeds = "seeds=" + json.dumps([*range(15)], separators=(",", ":"))

    def plan(*words: str) -> dict[str, Any]:
        assert main(["plan", "compare", "preset=smoke", seeds, "--json", *words]) == 0
        return json.loads(capsys.readouterr().out)

    words = ["axes.method=[spire]", "--gpus", "4x8", *asked]
    told = plan(*words)
    assert told["gpus"] == {"all": 32.0, "used": 3.75, "trials_on_each": 4.0}
    assert told["better"] == ["resources.num_actors=2", "resources.num_gpus=1"]
    assert told["command"].endswith(f"axes.method=[spire]' {' '.join(told['better'])}")
    assert told["nodes"] == [{"CPU": 64.0, "GPU": 8.0}] * 4
    for device, is_forecast in ("cuda", True), ("cpu", False):
        told["measured"][0]["device"] = device
        assert ("plan on a node with a GPU" in plan_text(told)) != is_forecast
    better = plan(*words, *told["better"])
    assert (better["gpus"]["used"], better["better"]) == (30.0, [])
    assert better["estimate_s"] < told["estimate_s"]
    # On a cluster that has still to grow, the numbers of the plan are written out.
    grown = plan("axes.method=[spire]", "autoscaling=true", "--gpus", "8", "--cpus", "64")
    assert grown["command"].endswith("resources.num_actors=1 resources.num_gpus=0.5")
    assert main(["plan", "compare", "--gpus", "4y8"]) == 2
