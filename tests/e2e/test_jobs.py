"""A Ray head of its own gets this checkout as jobs: where results go, and how jobs end."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from free_ports import free_ports
from mlflow import MlflowClient
from ray.job_submission import JobStatus, JobSubmissionClient

from pipeline.config.load import load_config
from pipeline.experiment.run import run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.runs.record import read_record

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
ENTRYPOINT = "python -m pipeline run"
SMALL = ["smoke", "federation.num_clients=3", "federation.num_new_clients=1", "adapt.epochs=1"]
SMALL += ["federation.num_rounds=2", "federation.cohort_size=2"]
SMALL += ["eval.every=0", "eval.num_images=16", "eval.num_loss_images=16"]
ONE_ACTOR, HERE = "resources.num_actors=1", "resources.pool=local"
NOT_INHERITED = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "MLFLOW_TRACKING_URI", "PYTHONPATH")
NOT_INHERITED += ("SPIRE_ROOT", "RAY_AUTH_TOKEN_PATH")
OTHERS = {"__pycache__", ".hypothesis", ".pytest_cache"}  # of tests beside these


@dataclass
class Head:
    """A running Ray head with a job server, a home and a token of its own."""

    address: str
    home: Path
    env: dict[str, str]
    client: JobSubmissionClient

    def submit(self, *words: str, env_vars: dict[str, str] | None = None) -> str:
        runtime_env = {"working_dir": str(ROOT), "env_vars": env_vars or {}}
        return self.client.submit_job(
            entrypoint=f"{ENTRYPOINT} {' '.join(words)}", runtime_env=runtime_env
        )

    def wait(self, job: str, timeout_s: float = 300.0) -> JobStatus:
        deadline = time.monotonic() + timeout_s
        while not (status := self.client.get_job_status(job)).is_terminal():
            assert time.monotonic() < deadline, self.client.get_job_logs(job)
            time.sleep(0.1)
        return status

    def exit_code(self, job: str) -> int | None:
        return self.client.get_job_info(job).driver_exit_code


def head_command(ports: Sequence[int], folder: str) -> list[str]:
    names = ("--port", "--dashboard-port", "--ray-client-server-port", "--metrics-export-port")
    return [
        str(Path(sys.executable).with_name("ray")),
        *("start", "--head", "--block", "--disable-usage-stats"),
        "--dashboard-agent-listen-port=0",  # free also beside another Ray
        *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"),
        *("--num-cpus=2", "--num-gpus=0", f"--temp-dir={folder}"),
        *(f"{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]


@pytest.fixture(scope="module")
def head(mnist_root: Path) -> Iterator[Head]:
    """Start the head; in the end none of the processes that came of it is left."""
    folder = tempfile.mkdtemp(prefix="spire-", dir="/tmp")  # short: sockets lie below it
    home, token, ports = Path(folder, "home"), secrets.token_hex(32), free_ports(4)
    home.mkdir()
    env = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
    env |= {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}", "HOME": str(home)}
    env |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_worker_niceness": "0"}
    env |= {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    env |= {"SPIRE_DATA": str(mnist_root)}
    command, address = head_command(ports, f"{folder}/ray"), f"http://127.0.0.1:{ports[1]}"
    with open(f"{folder}/log", "w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True
        )
    try:
        headers = {"Authorization": f"Bearer {token}"}
        client = connect(address, headers, process, Path(folder, "log"))
        yield Head(address, home, env, client)
    finally:
        came_of_it = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)
        _, left = psutil.wait_procs(came_of_it, timeout=15)
        for survivor in left:
            survivor.kill()
        shutil.rmtree(folder, ignore_errors=True)
    assert left == []


def connect(
    address: str, headers: dict[str, Any], process: subprocess.Popen[bytes], log: Path
) -> JobSubmissionClient:
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(ConnectionError, RuntimeError):
            return JobSubmissionClient(address, headers=headers)
        time.sleep(0.2)
    raise AssertionError(log.read_text())


def run_folders(root: Path) -> list[Path]:
    return [path.parent for path in root.glob("runs/*/run.json")]


def test_the_command_line_submits_this_checkout_and_gets_what_the_same_run_gives_here(
    head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name for path in ROOT.iterdir()}
    done = subprocess.run(
        [
            *("ray", "job", "submit", "--address", head.address, "--working-dir", ".", "--"),
            *(*ENTRYPOINT.split(), *SMALL, ONE_ACTOR),
        ],
        cwd=ROOT,
        env=head.env,
        capture_output=True,
        text=True,
        timeout=350,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout
    # Nothing says where to, so results lie in the home of the head, not in Ray's copy or here.
    base = head.home / "spire"
    assert str(base / "mlflow.db") in done.stdout
    [run_dir] = run_folders(base)
    assert (run_dir / "model").is_dir()
    run = MlflowClient(f"sqlite:///{base}/mlflow.db").get_run(read_record(run_dir)["run_id"])
    assert run.info.status == "FINISHED"
    assert {path.name for path in ROOT.iterdir()} - before <= OTHERS

    monkeypatch.setenv("SPIRE_DATA", head.env["SPIRE_DATA"])
    words = [*SMALL[1:], f"tracking.root={tmp_path}", "tracking.enabled=false"]
    here = run_experiment(
        load_config("smoke", [*words, "resources.pool=local"]), "smoke", Watcher()
    )
    assert run.data.tags["state_fingerprint"] == here.state_fingerprint


def test_a_mistake_fails_the_job_and_nobody_gets_in_without_the_token(head: Head) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        urllib.request.urlopen(f"{head.address}/api/jobs/", timeout=10)
    refused.value.close()
    job = head.submit("smoke", "tracking.root=here")
    assert head.wait(job) == JobStatus.FAILED
    assert head.exit_code(job) == 2
    logs = head.client.get_job_logs(job)
    assert "tracking.root as an absolute path in a Ray job" in logs
    assert "Traceback" not in logs


def test_a_stopped_job_closes_its_run(head: Head, tmp_path: Path, new_database: Path) -> None:
    shutil.copy(new_database, tmp_path)
    stopping = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "30"}
    root = f"tracking.root={tmp_path}"
    long = [*SMALL, "federation.num_rounds=100000", HERE, root]
    job = head.submit(*long, env_vars=stopping)
    deadline = time.monotonic() + 240
    while not list((tmp_path / "runs").glob("*/clients/*")):  # clients have trained
        assert time.monotonic() < deadline, head.client.get_job_logs(job)
        time.sleep(0.2)
    assert head.client.stop_job(job)
    assert head.wait(job) == JobStatus.STOPPED
    [run_dir] = run_folders(tmp_path)
    run = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").get_run(read_record(run_dir)["run_id"])
    assert run.info.status == "KILLED"
