"""Two nodes with logical GPUs: where a run's driver and the actors of a sweep land.

Also what the loss of a node does to the sweep.

The cluster lives in a process of its own, which this file is the script of, so that it stays away
from the Ray that the other tests share.
"""

import faulthandler
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from spire_core.errors import SpireError

SETTINGS = {
    "federation": {"num_rounds": 30, "cohort_size": 2, "num_clients": 4, "num_new_clients": 1},
    "model.width": 8,
    "adapt.epochs": 1,
    "eval": {"every": 0, "num_images": 8, "num_loss_images": 8},
    "diffusion.sample_steps": 2,
    "tracking": {"checkpoint_every": 1, "log_model": False},
}
SHARES = {"resources": {"num_actors": 2, "num_gpus": 0.5, "device": "cpu"}}
NUM_DRIVERS = 3  # in each of two tests: at random, all would be here by a chance of 1 in 64
HANGS_S = 840.0  # a minute is usual; ten where many processes that start share two cores
ENDS_S = HANGS_S + 60  # for that process to say what it waits for, and to end
pytestmark = [pytest.mark.timeout(ENDS_S + 60), pytest.mark.slow]
NODE = {"num_cpus": 3, "num_gpus": 1, "object_store_memory": 150_000_000}


def sweep_of(settings: Mapping[str, Any]) -> Any:
    from sweeps.design.config import SweepConfig

    return SweepConfig("study", "smoke", dict(settings), {"method": ["spire", "fedavg_ft"]})


# --- the process that has the cluster -------------------------------------------------------------


def groups() -> dict[str, dict[str, Any]]:
    """Return, of each placement group: its bundles, their nodes, its GPUs, those nobody has."""
    import ray
    from ray.util import placement_group_table

    have, free, found = ray.cluster_resources(), ray.available_resources(), {}
    for pg_id, row in placement_group_table().items():
        if row["state"] == "CREATED":
            names = [f"GPU_group_{i}_{pg_id}" for i in range(len(row["bundles"]))]
            found[pg_id] = {
                "bundles": [row["bundles"][i] for i in sorted(row["bundles"])],
                "nodes": [row["bundles_to_node_id"][i] for i in sorted(row["bundles"])],
                "gpus": sum(have.get(name, 0.0) for name in names),
                "free_gpus": sum(free.get(name, 0.0) for name in names),
            }
    return found


def is_in_the_middle(folder: Path) -> bool:
    """Return whether both trials have taken a checkpoint."""
    return len({path.parents[1] for path in folder.glob("runs/*/checkpoints/0*")}) == 2


def driver_nodes(num_drivers: int) -> list[str]:
    """Return the nodes of so many drivers that this process starts, as runs do, and ends."""
    import ray

    from pipeline.cluster.driver_actor import RemoteDriver

    drivers = [RemoteDriver() for _ in range(num_drivers)]
    asked = [
        driver.actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())
        for driver in drivers
    ]
    nodes = ray.get(asked)
    for driver in drivers:
        driver.close()
    return nodes


def main(folder: Path, lost: str) -> None:
    """Start drivers; run the sweep, lose a node in the middle, and print what was seen.

    `lost`: `worker`, a node that the sweep can do without, or `head`, this process's own as well.
    """
    faulthandler.dump_traceback_later(HANGS_S, exit=True)
    import ray
    from ray.cluster_utils import Cluster

    from sweeps.cli import outcome_json
    from sweeps.execution import tune
    from sweeps.sweep import run_sweep

    cluster = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
    worker = cluster.add_node(**NODE)
    ray.init(address=cluster.address, log_to_driver=False)
    seen: dict[str, Any] = {"here": ray.get_runtime_context().get_node_id()}
    seen["drivers"] = driver_nodes(NUM_DRIVERS)

    def lose_a_node() -> None:
        while not is_in_the_middle(folder):
            time.sleep(0.05)
        seen["groups"] = list(groups().values())
        seen["free"] = {k: v for k, v in ray.available_resources().items() if k in ("CPU", "GPU")}
        cluster.remove_node(worker, allow_graceful=False)
        if lost == "head":
            cluster.head_node.kill_raylet()
        seen["rounds"] = [int(p.name) for p in folder.glob("runs/*/checkpoints/0*")]

    threading.Thread(target=lose_a_node, daemon=True).start()
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)

    more: dict[str, Any] = {"seen": seen, "said": said}
    tune.WAIT_NOTICE_S = 5.0
    try:
        more |= outcome_json(run_sweep(sweep_of(SETTINGS | SHARES), say))
        more["is_initialized"] = ray.is_initialized()
    except SpireError as error:
        more["error"] = str(error)
    finally:
        ray.shutdown()
        cluster.shutdown()
    print(json.dumps(more), flush=True)
    os._exit(0)  # a hang from here on is none of the sweep's


def told_by(folder: Path, data: Path, lost: str) -> dict[str, Any]:
    """Run this file as a script in a process of its own, and return what it prints."""
    left_out = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")
    env = {k: v for k, v in os.environ.items() if k not in left_out}
    env |= {"SPIRE_ROOT": str(folder), "SPIRE_DATA": str(data)}
    env |= {"PYTHONPATH": str(Path(__file__).parents[2]), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, __file__, str(folder), lost]
    done = subprocess.run(
        command, env=env, cwd=folder, capture_output=True, text=True, check=False, timeout=ENDS_S
    )
    assert done.returncode == 0, done.stderr[-9000:]
    return json.loads(done.stdout.splitlines()[-1])


# --- the test -------------------------------------------------------------------------------------


def test_actors_land_as_planned_and_a_lost_node_changes_nothing(
    mnist_root: Path, tmp_path: Path, new_database: Path
) -> None:
    from pipeline.config.load import overridden
    from pipeline.experiment.run import run_experiment
    from pipeline.experiment.watcher import Watcher
    from sweeps.design.points import trials

    shutil.copy(new_database, tmp_path)
    told = told_by(tmp_path, mnist_root, "worker")
    seen = told["seen"]

    assert seen["drivers"] == [seen["here"]] * NUM_DRIVERS
    assert len(seen["groups"]) == 2
    for group in seen["groups"]:  # two actors with half a GPU each, and nothing left of it
        shares = [bundle for bundle in group["bundles"] if bundle]
        assert shares == [{"CPU": 1.0, "GPU": 0.5}] * 2
        assert (group["gpus"], group["free_gpus"]) == (1.0, 0.0)
    nodes = [{node for node in group["nodes"] if node} for group in seen["groups"]]
    assert [len(names) for names in nodes] == [1, 1]  # each trial's actors on one GPU
    assert nodes[0] != nodes[1]
    assert seen["free"] == {"CPU": 2.0}

    assert told["is_initialized"]  # the sweep ends no Ray that it has not started
    assert (told["num_finished"], told["num_failed"]) == (2, 0)
    assert max(seen["rounds"]) < SETTINGS["federation"]["num_rounds"]
    assert any("lost 1 times" in text for text in told["said"])
    for trial, row in zip(trials(sweep_of(SETTINGS)), told["trials"], strict=True):
        assert row["trial_id"] == trial.trial_id
        words = ["resources.pool=local", "tracking.enabled=false", f"data.root={mnist_root}"]
        config = overridden(trial.config, [*words, f"tracking.root={tmp_path / 'alone'}"])
        alone = run_experiment(config, "smoke", Watcher())
        assert row["state_fingerprint"] == alone.state_fingerprint
        scores = {k: v for k, v in row["metrics"].items() if "duration" not in k}
        assert scores.items() <= alone.metrics.items()

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    [experiment] = [e for e in client.search_experiments() if e.name == "study"]
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 3


def test_a_sweep_whose_own_node_is_lost_ends_with_a_sentence(
    mnist_root: Path, tmp_path: Path, new_database: Path
) -> None:
    """In a Ray that it has not started, where nothing else watches; Tune would wait for ever."""
    shutil.copy(new_database, tmp_path)
    told = told_by(tmp_path, mnist_root, "head")
    assert told["seen"]["drivers"] == [told["seen"]["here"]] * NUM_DRIVERS
    assert "got a dead node" in told["error"]
    assert max(told["seen"]["rounds"]) < SETTINGS["federation"]["num_rounds"]
    assert not any("finished" in text for text in told["said"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
