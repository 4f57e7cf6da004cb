"""The faults of `ray_faults.py`: what is done to whom, at which stage, and how it should end."""

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
from ray_desk import Command, Missed, marked

START_S = 300.0  # for a run to come to a stage
INTERRUPTS = ("SIGINT", "SIGTERM")
PAUSE_S = 60.0
SMALLEST = (
    "resources.num_actors=1",
    "tracking.checkpoint_every=1",
    "tracking.log_model=false",
    "federation.tau=2",
    "eval.every=0",
    "eval.num_loss_images=8",
    "eval.num_clients=2",
)
QUICK = ("eval.num_images=16", "adapt.epochs=1")
LONG = "federation.num_rounds=100000"  # so that it cannot end before the fault
SHORT = "federation.num_rounds=12"  # of a run that survives
OF_STAGE = {  # settings under which a stage lasts
    "Ray's start": (*QUICK, LONG),
    "clients' start": (*QUICK, LONG),
    "round": (*QUICK, LONG),
    "evaluation": ("eval.num_images=20000", "adapt.epochs=1", LONG),
    "adaptation": ("eval.num_images=16", "adapt.epochs=5000", "federation.num_rounds=2"),
}
BIG_ROUNDS = (  # updates of 47 MB each, eight of them in a round
    "model.width=64",
    "model.multipliers=[1,2,2]",
    "federation.num_clients=8",
    "federation.cohort_size=8",
    "federation.tau=1",
    "federation.num_rounds=3",
)


@dataclass(frozen=True)
class Case:
    """A fault: `action`, a signal's name, to `whom`, at a stage; `then` is sent to the command."""

    whom: str
    action: str
    moment: str
    code: int
    told: str = ""  # part of the sentence
    times: int = 1
    then: str = ""
    more: tuple[str, ...] = ()
    limits: str = ""  # "store", "store and disk", "memory": see ray_fault_limits.py

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.whom, self.action, self.moment, self.then)))

    @property
    def settings(self) -> tuple[str, ...]:
        words = (*SMALLEST, *OF_STAGE[self.moment], *self.more)
        return tuple({word.partition("=")[0]: word for word in words}.values())


def _cases() -> list[Case]:
    gcs, raylet, driver, client = "gcs_server", "raylet", "DriverActor", "ClientActor"
    found = [
        Case(raylet, "SIGKILL", "round", 2, "expected Ray's node process (raylet) to run", 5),
        Case(gcs, "SIGKILL", "round", 2, "expected Ray's control store (gcs_server) to run", 5),
        Case(raylet, "SIGSTOP", "round", 2, "expected this machine's node of Ray to answer", 5),
        Case(gcs, "SIGSTOP", "round", 2, "expected Ray's control store to answer", 5),
        Case(driver, "SIGKILL", "round", 2, "expected every actor to stay alive"),
        Case(driver, "SIGSTOP", "round", 2, "expected the driver's process to answer"),
        Case(client, "SIGKILL", "round", 0, more=(SHORT,)),
        Case(client, "SIGSTOP", "round", 0, more=(SHORT, "federation.client_timeout_s=10")),
        Case("all processes", "SIGSTOP", "round", 0, more=(SHORT,)),
        Case("command", "SIGKILL", "round", -9, times=3),
    ]
    stages = ("round", "evaluation", "adaptation", "clients' start", "Ray's start")
    for stage in stages:
        found += [Case("command", name, stage, 130, "interrupted") for name in INTERRUPTS]
        found.append(Case("group", "SIGTERM", stage, 130, "interrupted"))
        if stage != "round":
            found += [Case(whom, "SIGKILL", stage, 2, "Ray") for whom in (raylet, gcs)]
    for whom in (raylet, gcs, driver, client):
        found.append(Case(whom, "SIGSTOP", "round", 130, "interrupted", then="SIGINT"))
    for stage in ("evaluation", "adaptation"):
        found.append(Case(raylet, "SIGSTOP", stage, 2, "node of Ray to answer"))
        found.append(Case(gcs, "SIGSTOP", stage, 2, "control store to answer"))
    start = "clients' start"
    found.append(Case("store", "small", start, 0, more=BIG_ROUNDS, limits="store"))
    found.append(
        Case("store and disk", "small", start, 2, "disk", more=BIG_ROUNDS, limits="store and disk")
    )
    found.append(Case("memory", "full", "round", 2, "memory is short", limits="memory"))
    return found


CASES = _cases()


def wait_for_moment(command: Command, moment: str) -> None:
    """Wait until a run is in the middle of a stage; Missed if it ends before."""
    is_there: dict[str, Callable[[], bool]] = {
        "Ray's start": lambda: bool(command.processes("raylet")),
        "clients' start": lambda: (
            "starting the clients" in command.err.read_text()
            and bool(command.processes("ClientActor"))
        ),
        "round": lambda: command.num_rounds >= 2,
        "evaluation": lambda: "pre-training on" in command.err.read_text(),
        "adaptation": lambda: "adapting" in command.err.read_text(),
    }
    command.wait_until(is_there[moment], START_S)
    if moment in ("evaluation", "adaptation"):
        end = time.monotonic() + 3
        command.wait_until(lambda: time.monotonic() > end, START_S)


def strike(command: Command, case: Case) -> None:
    """Cause a fault; limits are there already."""
    number = getattr(signal, case.action, signal.SIGCONT)
    if case.whom == "command":
        command.process.send_signal(number)
    elif case.whom == "group":
        os.killpg(command.process.pid, number)
    elif case.whom == "all processes":
        _pause(command)
    elif not case.limits:
        found = command.processes(case.whom)
        if not found:
            raise Missed(f"no {case.whom}")
        for process in found:
            process.send_signal(number)
    if case.then:
        time.sleep(2)
        command.process.send_signal(getattr(signal, case.then))


def _pause(command: Command) -> None:
    """Let all processes stand still for a while, as a closed laptop does."""
    processes = marked(str(command.folder))
    for act in (psutil.Process.suspend, psutil.Process.resume):
        for process in processes:
            with contextlib.suppress(psutil.Error):
                act(process)
        if act is psutil.Process.suspend:
            time.sleep(PAUSE_S)
