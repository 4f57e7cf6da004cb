"""The cluster files say what Ray accepts, and the versions of pyproject.toml."""

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

from sweeps.design.config import load_sweep, sweep_names

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


def settings() -> dict[str, str]:
    """What the first set-up command writes for all nodes to read."""
    words = shlex.split(CLUSTER["setup_commands"][0])
    return dict(word.split("=", 1) for word in words if "=" in word)


@pytest.mark.parametrize("name", ["slurm", "slurm-nodes"])
def test_a_batch_job_of_slurm_is_a_script_that_ends_as_spire(name: str) -> None:
    script = ROOT / "docs" / f"{name}.sbatch"
    subprocess.run(["bash", "-n", script], check=True)
    *head, last = script.read_text().splitlines()
    assert any(line.startswith("#SBATCH --signal=B:TERM@") for line in head)
    exec_, spire, verb, name, *_ = shlex.split(last, comments=True)
    assert (exec_, spire, verb) == ("exec", "spire", "sweep")  # SIGTERM reaches it, not a shell
    assert name in sweep_names()


@pytest.mark.parametrize(("num_clients", "num_gpus"), [(4, 0.25), (7, 0.1)])
@pytest.mark.parametrize("num_trials", [1, 3])
def test_a_trial_fits_one_worker(num_clients: int, num_gpus: float, num_trials: int) -> None:
    trial = [{"CPU": 1.0}] + [{"CPU": 1.0, "GPU": num_gpus}] * num_clients
    nodes, left_over = nodes_for(trial * num_trials)
    assert nodes[WORKER] == 1  # of eight GPUs
    assert left_over == []


def test_nodes_get_what_pyproject_asks_for() -> None:
    words = shlex.split(CLUSTER["setup_commands"][1])
    assert words[:4] == ["python", "-m", "pip", "install"]
    [ray] = [word for word in words if word.startswith("ray[")]
    version = ray.removeprefix("ray[default,tune]==")
    low, high = re.findall(r"ray\[default,tune\]>=([\d.]+),<(\d+)", " ".join(REQUIREMENTS))[0]
    assert version.startswith(f"{low}.")
    assert version < high
    others = {r for r in REQUIREMENTS if not r.startswith("ray[")}
    assert {w for w in words[4:] if not w.startswith("--")} == others | {ray}
    assert CLUSTER["docker"]["image"] == f"rayproject/ray:{version}-py311-gpu"
    assert RAYJOB["spec"]["rayClusterSpec"]["rayVersion"] == version


@pytest.mark.parametrize("key", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_ray_starts_with_the_settings_and_a_token(key: str, tmp_path: Path) -> None:
    start = CLUSTER[key][1]
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


def test_the_rayjob_runs_a_sweep_below_a_shared_folder() -> None:
    spec = RAYJOB["spec"]
    python, dash_m, package, name, *words = shlex.split(spec["entrypoint"])
    assert (python, dash_m, package) == ("python", "-m", "sweeps")
    load_sweep(name, words)  # every setting exists
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    groups = [spec["rayClusterSpec"]["headGroupSpec"], *spec["rayClusterSpec"]["workerGroupSpecs"]]
    for container in (group["template"]["spec"]["containers"][0] for group in groups):
        told = {e["name"]: e["value"] for e in container["env"]}
        assert told.keys() == settings().keys()
        [mount] = container["volumeMounts"]
        assert told["SPIRE_ROOT"].startswith(mount["mountPath"])
