"""The cluster files say what Ray and KubeRay accept, and the versions of pyproject.toml."""

import copy
import functools
import re
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private import resource_demand_scheduler, util
from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary

from pipeline.config.load import load_config, preset_names
from sweeps.design.config import sweep_names

ROOT = Path(__file__).parents[4]
CLUSTER = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
RAYJOB = yaml.safe_load((ROOT / "docs" / "kuberay-rayjob.yaml").read_text())
REQUIREMENTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
WORKER = "gpu_worker"


def validated(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration as `ray up` completes it; raises what `ray up` would."""
    prepared = util.prepare_config(copy.deepcopy(config))
    util.validate_config(prepared)
    return prepared


def nodes_for(bundles: list[dict[str, float]]) -> tuple[dict[str, int], list[dict[str, float]]]:
    """The nodes that Ray's autoscaler would start for these bundles, and the bundles left over."""
    scorer = functools.partial(
        resource_demand_scheduler._default_utilization_scorer,
        node_availability_summary=NodeAvailabilitySummary(node_availabilities={}),
    )
    types = validated(CLUSTER)["available_node_types"]
    found, left_over = resource_demand_scheduler.get_nodes_for(
        types, {}, CLUSTER["head_node_type"], CLUSTER["max_workers"], bundles, scorer
    )
    return dict(found), left_over


def ray_version() -> str:
    """The version that pyproject.toml's bounds `>=2.60,<2.61` leave, without its last part."""
    [bounds] = [r for r in REQUIREMENTS if r.startswith("ray[")]
    low, high = re.fullmatch(r"ray\[default,tune\]>=2\.(\d+),<2\.(\d+)", bounds).groups()  # type: ignore[union-attr]
    assert int(high) == int(low) + 1
    return f"2.{low}"


def settings() -> dict[str, str]:
    """What the first set-up command writes for all nodes to read."""
    words = shlex.split(CLUSTER["setup_commands"][0])
    return dict(word.split("=", 1) for word in words if "=" in word)


def test_the_settings_to_source_are_those_of_the_cluster() -> None:
    text = (ROOT / "docs" / "cluster.env").read_text()
    exported = dict(re.findall(r"^export (\w+)=(.*)$", text, re.MULTILINE))
    for name in settings().keys() - {"MLFLOW_DISABLE_TELEMETRY"}:
        is_place = name.startswith(("SPIRE_", "MLFLOW_"))
        assert name in exported if is_place else exported[name] == settings()[name]
    assert exported["RAY_AUTH_MODE"] == "token"
    page = (ROOT / "docs" / "cluster.md").read_text()
    assert not [name for name in exported if f"`{name}`" not in page]  # each is explained


def test_the_batch_job_of_slurm_is_a_script_that_ends_as_spire() -> None:
    script = ROOT / "docs" / "slurm.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    *head, last = script.read_text().splitlines()
    assert "#SBATCH --signal=B:TERM@120" in head
    exec_, spire, verb, name, *_ = shlex.split(last, comments=True)
    assert (exec_, spire, verb) == ("exec", "spire", "sweep")  # SIGTERM reaches it, not a shell
    assert name in sweep_names()


def test_ray_accepts_the_file() -> None:
    prepared = validated(CLUSTER)
    assert prepared["head_start_ray_commands"] == CLUSTER["head_start_ray_commands"]
    assert (
        prepared["head_setup_commands"][: len(CLUSTER["setup_commands"])]
        == (CLUSTER["setup_commands"])
    )


def worker(config: dict[str, Any]) -> dict[str, Any]:
    return config["available_node_types"][WORKER]


MISTAKES = {
    "a misspelt key": (lambda c: c.update(setup_command=[]), "'setup_command' was unexpected"),
    "one of a node type": (lambda c: worker(c).update(max_worker=1), "'max_worker' was unexpected"),
    "a fraction of a GPU": (lambda c: worker(c)["resources"].update(GPU=0.5), "0.5 is not of type"),
    "no resources": (lambda c: worker(c).pop("resources"), "'resources' is a required"),
    "too many at least": (lambda c: worker(c).update(min_workers=9), "`max_workers` is smaller"),
    "another head": (lambda c: c.update(head_node_type="x"), "one of `available_node_types`"),
    "no provider": (lambda c: c.pop("provider"), "provider"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_ray_refuses_a_mistake(mistake: str) -> None:
    config = copy.deepcopy(CLUSTER)
    make, message = MISTAKES[mistake]
    make(config)
    with pytest.raises(Exception, match=message):
        validated(config)


@pytest.mark.parametrize(("num_clients", "num_gpus"), [(4, 0.25), (2, 0.5), (7, 0.1), (1, 1.0)])
@pytest.mark.parametrize("num_trials", [1, 3])
def test_a_trial_fits_one_worker(num_clients: int, num_gpus: float, num_trials: int) -> None:
    trial = [{"CPU": 1.0}] + [{"CPU": 1.0, "GPU": num_gpus}] * num_clients
    nodes, left_over = nodes_for(trial * num_trials)
    assert nodes[WORKER] <= num_trials
    assert left_over == []


def test_more_than_the_cluster_can_have_is_left_over() -> None:
    trial = [{"CPU": 1.0}] + [{"CPU": 1.0, "GPU": 0.25}] * 4
    nodes, left_over = nodes_for(trial * 5)
    assert nodes[WORKER] == CLUSTER["max_workers"] == worker(CLUSTER)["max_workers"]
    assert sum(bundle.get("GPU", 0) for bundle in left_over) == 1
    assert nodes_for([{"GPU": 2}]) == ({}, [{"GPU": 2}])


def test_the_head_does_no_gpu_work_and_workers_come_and_go() -> None:
    types = CLUSTER["available_node_types"]
    head = types[CLUSTER["head_node_type"]]
    assert (head["resources"].get("GPU", 0), head["max_workers"]) == (0, 0)
    assert (worker(CLUSTER)["min_workers"], worker(CLUSTER)["resources"]["GPU"]) == (0, 1)


def test_what_ray_up_min_workers_sets_is_dropped_as_the_docs_say() -> None:
    assert worker(validated(CLUSTER | {"min_workers": 1}))["min_workers"] == 0


def test_nodes_get_what_pyproject_asks_for() -> None:
    words = shlex.split(CLUSTER["setup_commands"][1])
    assert words[:4] == ["python", "-m", "pip", "install"]
    [ray] = [word for word in words if word.startswith("ray[")]
    assert re.fullmatch(rf"ray\[default,tune\]=={re.escape(ray_version())}\.\d+", ray)
    others = {r for r in REQUIREMENTS if not r.startswith("ray[")}
    assert {w for w in words[4:] if not w.startswith("--")} == others | {ray}
    assert CLUSTER["docker"]["image"] == f"rayproject/ray:{ray.partition('==')[2]}-py311-gpu"


@pytest.mark.parametrize("key", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_ray_starts_with_the_settings_and_a_token(key: str, tmp_path: Path) -> None:
    stop, start = CLUSTER[key]
    assert stop == "ray stop"  # of a former Ray in the same container
    assert start.startswith(". ~/spire.env; RAY_AUTH_MODE=token ray start ")
    assert ("--dashboard-host=127.0.0.1" in start) == ("--head" in start) == ("num-gpus=0" in start)
    # What the shell makes of it, with a `ray` that tells its arguments and its environment.
    (tmp_path / "ray").write_text('#!/bin/sh\necho "$@"\nenv\n')
    (tmp_path / "ray").chmod(0o755)
    shell = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "RAY_HEAD_IP": "10.0.0.1"}
    for command in (CLUSTER["setup_commands"][0], start):
        done = subprocess.run(
            ["/bin/sh", "-c", command], env=shell, capture_output=True, text=True, check=True
        )
    arguments, *environment = done.stdout.splitlines()
    assert arguments.startswith("start --head" if "--head" in start else "start --address=10.0.0.1")
    assert {f"{k}={v}" for k, v in settings().items()} <= set(environment)
    assert "RAY_AUTH_MODE=token" in environment


def test_all_that_lasts_lies_on_the_shared_mount() -> None:
    told = settings()
    mount = "/shared"
    assert f"-v {mount}:{mount}" in CLUSTER["docker"]["run_options"]
    assert f"mountpoint -q {mount} " in CLUSTER["initialization_commands"][1]
    assert told["SPIRE_ROOT"].startswith(mount)
    assert told["SPIRE_DATA"].startswith(mount)
    assert told["MLFLOW_TRACKING_URI"].startswith("http://")  # a file would be each node's own
    assert told["RAY_JOB_STOP_SIGNAL"] == "SIGINT"


def containers() -> list[dict[str, Any]]:
    cluster = RAYJOB["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"]["containers"][0] for group in groups]


def test_the_rayjob_is_one() -> None:
    spec = RAYJOB["spec"]
    assert (RAYJOB["apiVersion"], RAYJOB["kind"]) == ("ray.io/v1", "RayJob")
    assert re.fullmatch(r"[a-z0-9-]+", RAYJOB["metadata"]["name"])
    python, dash_m, package, *words = shlex.split(spec["entrypoint"])
    assert (python, dash_m, package) == ("python", "-m", "pipeline")
    assert words[0] == "run"
    assert words[1] in preset_names()
    load_config(words[1], words[2:])  # every setting exists
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["backoffLimit"] == 0  # a run that failed is looked at, not repeated
    assert spec["rayClusterSpec"]["enableInTreeAutoscaling"] is True
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_the_rayjobs_versions_are_those_of_pyproject() -> None:
    version = RAYJOB["spec"]["rayClusterSpec"]["rayVersion"]
    assert re.fullmatch(rf"{re.escape(ray_version())}\.\d+", version)
    assert {c["image"].rpartition("-ray")[2] for c in containers()} == {version}
    text = (ROOT / "docs" / "cluster.md").read_text()
    assert f"FROM rayproject/ray:{version}-py311-gpu" in text  # what that image is built from


def test_the_rayjobs_pods_share_storage_and_only_workers_have_gpus() -> None:
    head, *workers = containers()
    for container in (head, *workers):
        told = {e["name"]: e["value"] for e in container["env"]}
        assert told.keys() == settings().keys()
        [mount] = container["volumeMounts"]
        assert told["SPIRE_ROOT"].startswith(mount["mountPath"])
        assert told["SPIRE_DATA"].startswith(mount["mountPath"])
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    assert all(w["resources"]["limits"]["nvidia.com/gpu"] == 1 for w in workers)
    assert RAYJOB["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-gpus"] == "0"
    [group] = RAYJOB["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
