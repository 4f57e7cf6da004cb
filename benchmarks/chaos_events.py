"""What `chaos.py` lets happen to a run: each event waits for a random moment and strikes.

All strike from outside but two: a client that raises and one that sends NaN need
`faults/sitecustomize.py`.
"""

import contextlib
import json
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from chaos_desk import COMMAND_S, DISK_BYTES, Desk, Server
from ray_desk import Missed

from pipeline.config.schema import Config
from pipeline.federation.driver import choose_cohort

HANG_LIMIT_S = 15  # federation.client_timeout_s, where an actor is stopped
MAX_DELAY_S = 5.0
FAULTS = Path(__file__).resolve().parent / "faults"
Told = tuple[str, str]  # what happened, and when

STATES = "runs/*/checkpoints/[0-9]*/server.safetensors"


def wait_for_moment(desk: Desk, num_rounds: int, rng: random.Random, first: int = 0) -> str:
    """Wait for a random moment after `first` rounds at the earliest; return which it was.

    Before the first round the clients start; after the last one, new clients are fitted.
    """
    chosen, share = rng.randint(first, num_rounds), rng.random()
    desk.wait_until(lambda: desk.num_rounds >= chosen - 1)
    began = time.monotonic()
    desk.wait_until(lambda: desk.num_rounds >= chosen)
    delay_s = share * min(time.monotonic() - began, MAX_DELAY_S)
    end = time.monotonic() + delay_s
    desk.wait_until(lambda: time.monotonic() >= end)
    return f"{desk.num_rounds} rounds + {delay_s:.2f} s"


def kill_client(desk: Desk, num_rounds: int, rng: random.Random) -> Told:
    moment = wait_for_moment(desk, num_rounds, rng)
    desk.wait_until(lambda: bool(desk.actors("ClientActor")))
    rng.choice(desk.actors("ClientActor")).kill()
    return "SIGKILL of a client actor", moment


def hang_client(desk: Desk, num_rounds: int, rng: random.Random) -> Told:
    moment = wait_for_moment(desk, num_rounds, rng, first=1)
    desk.wait_until(lambda: bool(desk.actors("ClientActor")))
    rng.choice(desk.actors("ClientActor")).suspend()
    return f"SIGSTOP of a client actor, limit {HANG_LIMIT_S} s", moment


def kill_driver(desk: Desk, num_rounds: int, rng: random.Random) -> Told:
    whose = rng.choice(("process", "actor"))
    moment = wait_for_moment(desk, num_rounds, rng)
    if whose == "process":
        desk.kill()
    else:
        desk.wait_until(lambda: bool(desk.actors("Driver")))
        desk.actors("Driver")[0].kill()
    return f"SIGKILL of the driver's {whose}", moment


def terminate(desk: Desk, num_rounds: int, rng: random.Random) -> Told:
    moment = wait_for_moment(desk, num_rounds, rng)
    desk.process.terminate()
    return "SIGTERM", moment


def cut_checkpoint(desk: Desk, num_rounds: int, rng: random.Random) -> Told:
    moment = wait_for_moment(desk, num_rounds, rng, first=2)
    # The first checkpoint waits for the scores of the evaluation before it.
    desk.wait_until(lambda: bool(list(desk.root.glob(STATES))))
    desk.kill()
    newest = max(desk.root.glob(STATES))
    size = rng.randrange(newest.stat().st_size)
    os.truncate(newest, size)
    return f"SIGKILL, checkpoint {int(newest.parent.name)} cut to {size} bytes", moment


def fill_disk(desk: Desk, num_rounds: int, rng: random.Random) -> Told:
    """Fill the run's disk until the run has ended; its owner then makes room."""
    moment = wait_for_moment(desk, num_rounds, rng)
    if os.path.ismount(desk.root):
        detail = f"tmpfs of {DISK_BYTES >> 20} MiB full"
        with contextlib.suppress(OSError), (desk.root / "filler").open("wb", 0) as filler:
            while filler.write(bytes(4096)):
                pass
    else:  # who may not mount: no file of these processes grows any more
        detail = "RLIMIT_FSIZE 0"
        run = psutil.Process(desk.process.pid)
        for process in (run, *desk.actors("ClientActor"), *desk.actors("Driver")):
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, 0))
    code = desk.process.wait(COMMAND_S)
    (desk.root / "filler").unlink(missing_ok=True)
    if code == 0:
        raise Missed  # all had been written by then
    return detail, moment


def await_fault(desk: Desk, num_rounds: int, rng: random.Random) -> Told:
    """Wait for what `faults/sitecustomize.py` does in the run."""
    fault = json.loads(desk.env["SPIRE_FAULT"])
    desk.wait_until(Path(fault["mark"]).exists)
    return f"{fault['kind']}, client {fault['client_id']}", f"in round {fault['round_idx'] + 1}"


def take_server_down(desk: Desk, num_rounds: int, rng: random.Random, server: Server) -> Told:
    """Let the server die or stop; bring it back some rounds later, or after the run's end."""
    kind, stays_away = rng.choice(("killed", "stopped")), rng.random() < 0.5
    moment = wait_for_moment(desk, num_rounds, rng)
    back = num_rounds + 1 if stays_away else rng.randint(desk.num_rounds, num_rounds)
    if kind == "killed":
        server.kill()
    else:
        server.send(signal.SIGSTOP)
    with contextlib.suppress(Missed):
        desk.wait_until(lambda: desk.num_rounds >= back)
    is_over = desk.process.poll() is not None
    if kind == "killed":
        server.start()
    else:
        server.send(signal.SIGCONT)
    return f"server {kind}, back {'after the end' if is_over else f'at {back} rounds'}", moment


EVENTS: dict[str, Callable[..., Told]] = {
    "client-kill": kill_client,
    "client-exception": await_fault,
    "driver-kill": kill_driver,
    "sigterm": terminate,
    "nan-update": await_fault,
    "client-hang": hang_client,
    "server-down": take_server_down,
    "disk-full": fill_disk,
    "checkpoint-cut": cut_checkpoint,
}
FAULT_KINDS = {"client-exception": "raise", "nan-update": "nan"}


def plan_fault(event: str, config: Config, rng: random.Random, mark: Path) -> dict[str, str | int]:
    """Return a fault of some client of some round's cohort; `mark`: the file that it leaves."""
    federation = config.federation
    round_idx = rng.randrange(federation.num_rounds)
    cohort = choose_cohort(federation.num_clients, federation.cohort_size, config.seed, round_idx)
    fault = {"kind": FAULT_KINDS[event], "client_id": rng.choice(cohort), "round_idx": round_idx}
    return fault | {"mark": str(mark)}


def fault_env(fault: dict[str, str | int]) -> dict[str, str]:
    """Return the environment in which a command's processes have a fault."""
    path = filter(None, (str(FAULTS), os.environ.get("PYTHONPATH")))
    return {"SPIRE_FAULT": json.dumps(fault), "PYTHONPATH": os.pathsep.join(path)}
