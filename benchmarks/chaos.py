"""Small runs of which each is disturbed once, at a random moment: all must end as if undisturbed.

    python -m benchmarks.chaos --runs 20 --seed 0

Real MNIST, real Ray with two client actors, real MLflow, and the commands that a user types: a run
that ends early is resumed, and what waits for a server is delivered by `spire sync`. In the end the
run's state has to be that of an uninterrupted run in one process, bit for bit; MLflow has to hold
every number of that run exactly once, with its value (of times and memory: some value), and the
status FINISHED. Exit code 0 only if all of this is true of all runs.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from mlflow import MlflowClient

from benchmarks.ray_desk import Command, Missed
from pipeline.data.datasets import store_root
from pipeline.runs.layout import RECORD, REFUSED
from pipeline.runs.record import read_record
from pipeline.tracking.outbox import num_waiting

MAX_COMMANDS, MAX_TRIES = 3, 3
COMMAND_S = 900.0  # for one command, however busy the machine is
HANG_LIMIT_S = 15  # federation.client_timeout_s, where an actor is stopped
MAX_DELAY_S = 5.0
UNREPEATABLE = ("time/", "memory/", "final/adapt_duration_s")
STATES = "runs/*/checkpoints/[0-9]*/server.safetensors"
SETTINGS = [
    "federation.tau=6",
    "tracking.log_model=false",
    "eval.every=4",
    "eval.num_images=16",
    "eval.num_loss_images=8",
    "eval.num_clients=2",
    "adapt.epochs=1",
]
Points = dict[str, list[tuple[int, float]]]  # (step, value) by the number's name


class Run:
    """A run in a folder of its own, and the command that was typed last."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder, self.uri = folder, uri
        folder.mkdir()

    def type(self, *words: str) -> None:
        """Start a command."""
        self.command = Command(self.folder, store_root(), *words, MLFLOW_TRACKING_URI=self.uri)

    def end(self) -> tuple[int, dict[str, Any]]:
        """Wait for the command; return its exit code and the object that it printed, if any."""
        code, _ = self.command.end(COMMAND_S)
        out = self.command.out.read_text()
        return code, json.loads(out) if out.strip() else {}

    @property
    def run_dir(self) -> Path:
        return next(self.folder.glob(f"runs/*/{RECORD}")).parent

    @property
    def num_rounds(self) -> int:
        """Rounds that have been recorded so far; -1 before there is a run."""
        return self.command.num_rounds if any(self.folder.glob(f"runs/*/{RECORD}")) else -1

    def wait_until(self, is_true: Callable[[], bool]) -> None:
        self.command.wait_until(is_true, COMMAND_S)

    def process(self, name: str, rng: random.Random) -> psutil.Process:
        """Wait for processes of Ray with a name, or of actors of a class, and choose one."""
        self.wait_until(lambda: bool(self.command.processes(name)))
        return rng.choice(self.command.processes(name))

    def wait_for_moment(self, num_rounds: int, rng: random.Random, first: int = 0) -> str:
        """Wait for a random moment after `first` rounds at the earliest; return which it was.

        Before the first round the clients start; after the last one, new clients are fitted.
        """
        chosen, share = rng.randint(first, num_rounds), rng.random()
        self.wait_until(lambda: self.num_rounds >= chosen - 1)
        began = time.monotonic()
        self.wait_until(lambda: self.num_rounds >= chosen)
        delay_s = share * min(time.monotonic() - began, MAX_DELAY_S)
        end = time.monotonic() + delay_s
        self.wait_until(lambda: time.monotonic() >= end)
        return f"{self.num_rounds} rounds + {delay_s:.2f} s"


class Server:
    """A real tracking server with one address and one database, each time started anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        env = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                command, env=env, cwd=self.folder, stdout=log, stderr=log, start_new_session=True
            )
        while self.process.poll() is None:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{self.address}/health", timeout=5),
            ):
                return
            time.sleep(0.2)
        raise RuntimeError((self.folder / "log").read_text())

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the server and all of its processes."""
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """End it as a crash would."""
        if self.process.poll() is None:
            self.send(signal.SIGKILL)
            self.process.wait()


def kill_client(run: Run, num_rounds: int, rng: random.Random) -> str:
    moment = run.wait_for_moment(num_rounds, rng)
    run.process("ClientActor", rng).kill()
    return f"SIGKILL of a client actor at {moment}"


def hang_client(run: Run, num_rounds: int, rng: random.Random) -> str:
    moment = run.wait_for_moment(num_rounds, rng, first=1)
    run.process("ClientActor", rng).suspend()
    return f"SIGSTOP of a client actor at {moment}"


def kill_driver(run: Run, num_rounds: int, rng: random.Random) -> str:
    whose = rng.choice(("process", "actor"))
    moment = run.wait_for_moment(num_rounds, rng)
    (run.command.process if whose == "process" else run.process("Driver", rng)).kill()
    return f"SIGKILL of the driver's {whose} at {moment}"


def kill_ray(run: Run, num_rounds: int, rng: random.Random) -> str:
    name = rng.choice(("raylet", "gcs_server"))
    moment = run.wait_for_moment(num_rounds, rng)
    run.process(name, rng).kill()
    return f"SIGKILL of Ray's {name} at {moment}"


def terminate(run: Run, num_rounds: int, rng: random.Random) -> str:
    moment = run.wait_for_moment(num_rounds, rng)
    run.command.process.terminate()
    return f"SIGTERM at {moment}"


def cut_checkpoint(run: Run, num_rounds: int, rng: random.Random) -> str:
    moment = run.wait_for_moment(num_rounds, rng, first=2)
    # The first checkpoint waits for the scores of the evaluation before it.
    run.wait_until(lambda: bool(list(run.folder.glob(STATES))))
    run.command.process.kill()
    run.command.process.wait()
    newest = max(run.folder.glob(STATES))
    size = rng.randrange(newest.stat().st_size)
    os.truncate(newest, size)
    return f"SIGKILL at {moment}, checkpoint cut to {size} bytes"


def fill_disk(run: Run, num_rounds: int, rng: random.Random) -> str:
    """Let no file of the run's processes grow any more, until the run has ended."""
    moment = run.wait_for_moment(num_rounds, rng)
    actors = [*run.command.processes("ClientActor"), *run.command.processes("Driver")]
    for pid in (run.command.process.pid, *(actor.pid for actor in actors)):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))
    if run.command.process.wait(COMMAND_S) == 0:
        raise Missed  # all had been written by then
    return f"no file grows from {moment}"


def take_server_down(run: Run, num_rounds: int, rng: random.Random, server: Server) -> str:
    """Let the server die or stop; bring it back some rounds later, or after the run's end."""
    kind, stays_away = rng.choice(("killed", "stopped")), rng.random() < 0.5
    moment = run.wait_for_moment(num_rounds, rng)
    back = num_rounds + 1 if stays_away else rng.randint(run.num_rounds, num_rounds)
    server.kill() if kind == "killed" else server.send(signal.SIGSTOP)
    with contextlib.suppress(Missed):
        run.wait_until(lambda: run.num_rounds >= back)
    server.start() if kind == "killed" else server.send(signal.SIGCONT)
    return f"server {kind} at {moment}, back at {back} rounds or the end"


EVENTS: dict[str, Callable[..., str]] = {
    "client-kill": kill_client,
    "client-hang": hang_client,
    "driver-kill": kill_driver,
    "ray-kill": kill_ray,
    "sigterm": terminate,
    "server-down": take_server_down,
    "disk-full": fill_disk,
    "checkpoint-cut": cut_checkpoint,
}


def recorded(run: Run) -> tuple[str, Points]:
    """Return the status and all numbers that MLflow holds of a run."""
    client, run_id = MlflowClient(run.uri), read_record(run.run_dir)["run_id"]
    found = client.get_run(run_id)
    points = {key: client.get_metric_history(run_id, key) for key in found.data.metrics}
    return found.info.status, {
        key: sorted((m.step, m.value) for m in history) for key, history in points.items()
    }


def differences(found: Points, expected: Points) -> list[str]:
    """Return how the numbers differ: missing, there twice, or of another value."""
    told = [f"{key} is in one of them only" for key in sorted(found.keys() ^ expected.keys())]
    for key in sorted(found.keys() & expected.keys()):
        have, want = found[key], expected[key]
        if key.startswith(UNREPEATABLE):
            have, want = ([step for step, _ in points] for points in (have, want))
        if have != want:
            told.append(f"{key} is {have} instead of {want}")
    return told


def finish(run: Run, expected: tuple[str, Points]) -> tuple[int, int, list[str]]:
    """Wait for a run, resume it and deliver its rest; return how often, and what is wrong."""
    code, told = run.end()
    num_resumes = num_syncs = 0
    while code and num_resumes < MAX_COMMANDS:
        num_resumes += 1
        run.type("resume", "last")
        code, told = run.end()
    while not code and num_waiting(run.run_dir) and num_syncs < MAX_COMMANDS:
        num_syncs += 1
        run.type("sync", "last")
        run.end()
    fingerprint, points = expected
    status, delivered = recorded(run)
    wrong = differences(delivered, points)
    wrong += [f"exit code {code}: {run.command.err.read_text()}"] if code else []
    wrong += ["another state"] if told.get("state_fingerprint") != fingerprint else []
    wrong += [f"status {status}"] if status != "FINISHED" else []
    wrong += ["refused entries"] if (run.run_dir / REFUSED).exists() else []
    return num_resumes, num_syncs, wrong


def disturb(
    event: str, num_rounds: int, rng: random.Random, folder: Path, expected: tuple[str, Points]
) -> tuple[str, int, int, list[str]]:
    """Do one run with one event and return what became of it; Missed if it was over before."""
    words = [f"federation.num_rounds={num_rounds}", *SETTINGS, "resources.num_actors=2"]
    words.append(f"tracking.checkpoint_every={rng.choice((1, 2))}")
    if event == "client-hang":
        words.append(f"federation.client_timeout_s={HANG_LIMIT_S}")
    with contextlib.ExitStack() as stack:
        uri, server = f"sqlite:///{folder.parent}/mlflow.db", []
        if event == "server-down":
            server = [Server(folder.with_name(f"{folder.name}-server"))]
            stack.callback(server[0].kill)
            uri = server[0].address
        run = Run(folder, uri)
        run.type("run", "smoke", *words)
        stack.callback(lambda: run.command.kill())
        told = EVENTS[event](run, num_rounds, rng, *server)
        return told, *finish(run, expected)


def undisturbed(folder: Path, num_rounds: int) -> tuple[str, Points]:
    """Return the state and the numbers of a run in one process."""
    run = Run(folder, f"sqlite:///{folder.parent}/mlflow.db")
    words = [f"federation.num_rounds={num_rounds}", *SETTINGS, "resources.pool=local"]
    run.type("run", "smoke", *words)
    code, told = run.end()
    if code:
        raise RuntimeError(run.command.err.read_text())
    return told["state_fingerprint"], recorded(run)[1]


def is_right(
    event: str, num_rounds: int, seed: str, folder: Path, expected: tuple[str, Points]
) -> bool:
    """Disturb runs until the event comes before the end of one; print what became of it."""
    rng = random.Random(seed)
    for attempt in range(MAX_TRIES):
        tried = folder.with_name(f"{folder.name}-{attempt}")
        try:
            told, num_resumes, num_syncs, wrong = disturb(event, num_rounds, rng, tried, expected)
        except Missed:
            continue
        counts = f"resumed {num_resumes}, synced {num_syncs}"
        print(f"{folder.name}: {told}; {counts}: {'WRONG' if wrong else 'ok'}", flush=True)
        print("".join(f"    {problem}\n" for problem in wrong), end="", flush=True)
        return not wrong
    print(f"{folder.name}: WRONG, over before the event, {MAX_TRIES} times", flush=True)
    return False


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20, help="how many (20)")
    parser.add_argument("--seed", type=int, default=0, help="of moments (0)")
    parser.add_argument("--rounds", type=int, default=8, help="of each run (8)")
    parser.add_argument("--events", nargs="+", choices=EVENTS, default=list(EVENTS))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        expected, num_right = undisturbed(Path(name, "undisturbed"), args.rounds), 0
        for idx in range(args.runs):
            event = args.events[(args.seed + idx) % len(args.events)]
            folder = Path(name, f"{idx:02d}-{event}")
            num_right += is_right(event, args.rounds, f"{args.seed}/{idx}", folder, expected)
    print(f"{num_right} of {args.runs} ended as the undisturbed run")
    return 0 if num_right == args.runs else 1


if __name__ == "__main__":
    sys.exit(main())
