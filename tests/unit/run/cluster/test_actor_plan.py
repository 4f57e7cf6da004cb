"""How many actors run with which share of CPUs and GPUs, and how their work is dealt out."""

import os

import pytest
import torch

from pipeline.cluster.actor_plan import (
    ActorPlan,
    allotted_cpus,
    choose_device,
    machine_resources,
    plan_on_nodes,
)
from pipeline.config.resources import ResourcesConfig
from spire_core.errors import ClusterError


def test_auto_fills_the_cpus_but_no_more_than_can_be_useful() -> None:
    assert plan_on_nodes(ResourcesConfig(), [{"CPU": 2.0}], 4) == ActorPlan(2, 1.0, 0.0)
    assert plan_on_nodes(ResourcesConfig(), [{"CPU": 64.0}], 4) == ActorPlan(4, 1.0, 0.0)


@pytest.mark.parametrize(("told", "cpus"), [("3", 3), ("0", None), ("", None), ("16(x2)", None)])
def test_a_job_of_slurm_has_the_cpus_that_it_was_given(
    told: str, cpus: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", told)
    assert allotted_cpus() == cpus
    assert machine_resources()["CPU"] == (cpus or os.cpu_count())


def test_gpus_are_shared_in_fractions() -> None:
    have = {"CPU": 16.0, "GPU": 2.0}
    assert plan_on_nodes(ResourcesConfig(), [have], 8) == ActorPlan(8, 1.0, 0.25)
    assert plan_on_nodes(ResourcesConfig(num_gpus=0.5), [have], 8) == ActorPlan(4, 1.0, 0.5)
    three = plan_on_nodes(ResourcesConfig(num_actors=3), [{"CPU": 4.0, "GPU": 1.0}], 8)
    assert three.num_gpus == 0.3333  # three of these fit one GPU


def test_actors_are_planned_where_they_can_be() -> None:
    """An actor lies on one node: what is left of several is no place for one."""
    mixed = [{"CPU": 4.0}, {"CPU": 8.0, "GPU": 1.0}]
    assert plan_on_nodes(ResourcesConfig(), mixed, 64) == ActorPlan(8, 1.0, 0.125)
    assert plan_on_nodes(ResourcesConfig(num_gpus=0.0), mixed, 64) == ActorPlan(12, 1.0, 0.0)
    uneven = [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}]
    assert plan_on_nodes(ResourcesConfig(), uneven, 64) == ActorPlan(10, 1.0, 0.125)
    three = [{"CPU": 3.0}, {"CPU": 3.0}]
    assert plan_on_nodes(ResourcesConfig(num_cpus=2.0), three, 64) == ActorPlan(2, 2.0, 0.0)
    with pytest.raises(ClusterError, match="12 CPUs and 1 GPUs on 2 nodes, got 12 client"):
        plan_on_nodes(ResourcesConfig(num_actors=12), mixed, 64)


def test_what_can_never_fit_is_refused() -> None:
    only = r"num_cpus or num_gpus \(num_actors and num_gpus may be auto\)$"
    with pytest.raises(ClusterError, match=f"of which 0 fit: lower resources.num_actors, {only}"):
        plan_on_nodes(ResourcesConfig(num_cpus=100.0), [{"CPU": 2.0}], 4)
    with pytest.raises(ClusterError, match="CPUs"):
        plan_on_nodes(ResourcesConfig(num_actors=3), [{"CPU": 2.0}], 4)
    with pytest.raises(ClusterError, match="GPUs"):
        plan_on_nodes(ResourcesConfig(num_actors=1, num_gpus=1.0), [{"CPU": 2.0}], 4)


def test_an_actor_computes_on_a_gpu_only_if_torch_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(ResourcesConfig(), has_gpu=False) == "cpu"
    assert choose_device(ResourcesConfig(num_gpus=0.5, device="cpu"), has_gpu=True) == "cpu"
    with pytest.raises(ClusterError, match=r"torch .* without one: .*resources\.device=cpu"):
        choose_device(ResourcesConfig(), has_gpu=True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(ResourcesConfig(), has_gpu=True) == "cuda"
    assert choose_device(ResourcesConfig(), has_gpu=False) == "cpu"


@pytest.mark.parametrize("words", [{}, {"device": "cpu"}])
@pytest.mark.parametrize("num_gpus", [0.0, 0.5, 1.0])
def test_a_plan_tells_the_device_that_its_actors_choose(
    num_gpus: float, words: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    config, plan = ResourcesConfig(**words), ActorPlan(1, 1.0, num_gpus)
    assert plan.device(config) == choose_device(config, has_gpu=num_gpus > 0)
