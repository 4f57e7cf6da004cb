"""Small runs of which each is disturbed once, at a random moment: all must end as if undisturbed.

    python benchmarks/chaos.py --runs 20 --seed 0 --json chaos.json

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
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from chaos_desk import Desk, Server, small_disk
from chaos_events import EVENTS, FAULT_KINDS, HANG_LIMIT_S, fault_env, plan_fault
from ray_desk import Missed

from pipeline.config.load import load_config
from pipeline.runs.layout import REFUSED
from pipeline.tracking.outbox import num_waiting

MAX_COMMANDS, MAX_TRIES = 3, 3
UNREPEATABLE = ("time/", "memory/", "final/adapt_duration_s")
SETTINGS = [
    "federation.tau=6",
    "client.engine=loop",  # whose training of a client is what faults/sitecustomize.py spoils
    "tracking.log_model=false",
    "eval.every=4",
    "eval.num_images=16",
    "eval.num_loss_images=8",
    "eval.num_clients=2",
    "adapt.epochs=1",
]
Points = dict[str, list[tuple[int, float]]]  # (step, value) by the number's name


@dataclass(frozen=True)
class Expected:
    """What an undisturbed run comes to."""

    fingerprint: str
    points: Points


@dataclass
class Outcome:
    """One line of the table."""

    event: str
    detail: str = ""
    moment: str = ""
    num_resumes: int = 0
    num_syncs: int = 0
    has_fingerprint: bool = False
    has_points: bool = False
    has_status: bool = False
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def is_right(self) -> bool:
        return self.has_fingerprint and self.has_points and self.has_status and not self.problems


def settings_for(num_rounds: int) -> list[str]:
    return [f"federation.num_rounds={num_rounds}", *SETTINGS]


def recorded(desk: Desk) -> tuple[str, Points]:
    """Return the status and all numbers that MLflow holds of a run."""
    from mlflow import MlflowClient

    client, run_id, points = MlflowClient(desk.uri), desk.run_dir.name, {}
    run = client.get_run(run_id)
    for key in run.data.metrics:
        points[key] = sorted((m.step, m.value) for m in client.get_metric_history(run_id, key))
    return run.info.status, points


def differences(found: Points, expected: Points) -> list[str]:
    """Return how the numbers differ: missing, there twice, or of another value."""
    told = [f"{key} is in one of them only" for key in sorted(found.keys() ^ expected.keys())]
    for key in sorted(found.keys() & expected.keys()):
        have, want = ([step for step, _ in points[key]] for points in (found, expected))
        if have != want:
            told.append(f"{key} has steps {have} instead of {want}")
        elif not key.startswith(UNREPEATABLE) and found[key] != expected[key]:
            told.append(f"{key} is {found[key]} instead of {expected[key]}")
    return told


def undisturbed(root: Path, words: Sequence[str], **env: str) -> Expected:
    """Return what a run comes to in one process."""
    desk = Desk(root, **env)
    with contextlib.ExitStack() as stack:
        stack.callback(desk.kill)
        desk.type("run", "smoke", *words, "resources.pool=local")
        code, told = desk.end()
    if code:
        raise RuntimeError(desk.err.read_text())
    return Expected(told["state_fingerprint"], recorded(desk)[1])


def disturb(
    event: str, num_rounds: int, rng: random.Random, root: Path, expected: Expected
) -> Outcome:
    """Do one run with one event and return what became of it; Missed if it was over before."""
    words = [*settings_for(num_rounds), f"tracking.checkpoint_every={rng.choice((1, 2))}"]
    with contextlib.ExitStack() as stack:
        desk, more, outcome = Desk(root), (), Outcome(event)
        if event == "server-down":
            server = Server(root.with_name(f"{root.name}-server"))
            server.start()
            stack.callback(server.kill)
            desk, more = Desk(root, server.address), (server,)
        elif event == "disk-full":
            stack.enter_context(small_disk(root))
            desk = Desk(root, f"sqlite:///{root}/mlflow.db")
        elif event == "client-hang":
            words.append(f"federation.client_timeout_s={HANG_LIMIT_S}")
        elif event in FAULT_KINDS:
            config, mark = load_config("smoke", words), root.with_name(f"{root.name}.mark")
            desk = Desk(root, **fault_env(plan_fault(event, config, rng, mark)))
        stack.callback(desk.kill)
        desk.type("run", "smoke", *words, "resources.num_actors=2")
        outcome.detail, outcome.moment = EVENTS[event](desk, num_rounds, rng, *more)
        finish(desk, outcome, expected)
    return outcome


def finish(desk: Desk, outcome: Outcome, expected: Expected) -> None:
    """Wait for the run, resume it and deliver its rest if need be, and compare what it came to."""
    code, told = desk.end()
    while code and outcome.num_resumes < MAX_COMMANDS:
        outcome.num_resumes += 1
        desk.type("resume", "last")
        code, told = desk.end()
    while not code and num_waiting(desk.run_dir) and outcome.num_syncs < MAX_COMMANDS:
        outcome.num_syncs += 1
        desk.type("sync", "last")
        desk.end()
    if code:
        outcome.problems.append(f"exit code {code} of spire resume")
    status, points = recorded(desk)
    wrong = differences(points, expected.points)
    outcome.has_fingerprint = told.get("state_fingerprint") == expected.fingerprint
    outcome.has_points = not wrong and not (desk.run_dir / REFUSED).exists()
    outcome.has_status = status == "FINISHED"
    outcome.problems += wrong


def chosen_events(names: Sequence[str], num_runs: int, rng: random.Random) -> list[str]:
    """Return so many events in random order, each as often as any other, but for the last ones."""
    events: list[str] = []
    while len(events) < num_runs:
        events += rng.sample(names, len(names))
    return events[:num_runs]


def try_event(event: str, num_rounds: int, seed: str, root: Path, expected: Expected) -> Outcome:
    """Disturb runs until the event comes before the end of one."""
    began, rng = time.monotonic(), random.Random(seed)
    for attempt in range(MAX_TRIES):
        tried = root.with_name(f"{root.name}-{attempt}")
        try:
            outcome = disturb(event, num_rounds, rng, tried, expected)
        except Missed:
            continue
        except (OSError, RuntimeError, subprocess.TimeoutExpired) as error:
            outcome = Outcome(event, problems=[repr(error)])
        break
    else:
        outcome = Outcome(event, problems=[f"over before the event, {MAX_TRIES} times"])
    outcome.seconds = time.monotonic() - began
    return outcome


LINE = "{:>3}  {:16}  {:52}  {:19}  {:>7}  {:>4}  {:11}  {:6}  {:8}  {:>7}"
HEAD = ("run", "event", "what", "moment", "resumed", "sync", "fingerprint", "points", "FINISHED")


def line(idx: int, outcome: Outcome) -> str:
    found = (outcome.has_fingerprint, outcome.has_points, outcome.has_status)
    said = ["ok" if is_right else "WRONG" for is_right in found]
    counts = outcome.num_resumes, outcome.num_syncs
    told = (outcome.event, outcome.detail, outcome.moment, *counts, *said, f"{outcome.seconds:.0f}")
    return LINE.format(idx, *told)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20, help="how many (20)")
    parser.add_argument("--seed", type=int, default=0, help="of events and moments (0)")
    parser.add_argument("--rounds", type=int, default=8, help="of each run (8)")
    text = "choose among these only"
    parser.add_argument(
        "--events", nargs="+", choices=list(EVENTS), default=list(EVENTS), help=text
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")
    text = "keep the runs, with what they said, in this new folder"
    parser.add_argument("--keep", type=Path, metavar="DIR", help=text)
    args = parser.parse_args()

    rng, outcomes = random.Random(args.seed), []
    with contextlib.ExitStack() as stack:
        folder = args.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(exist_ok=args.keep is None, parents=True)
        load = os.getloadavg()
        settings = settings_for(args.rounds)
        expected = undisturbed(folder.resolve() / "undisturbed", settings)
        print(LINE.format(*HEAD, "seconds"), flush=True)
        for idx, event in enumerate(chosen_events(args.events, args.runs, rng)):
            seed, root = f"{args.seed}/{idx}", folder.resolve() / f"{idx:02d}-{event}"
            outcomes.append(try_event(event, args.rounds, seed, root, expected))
            print(line(idx, outcomes[-1]), flush=True)
            for problem in outcomes[-1].problems:
                print(f"     {problem}", file=sys.stderr, flush=True)
    num_right = sum(outcome.is_right for outcome in outcomes)
    loads = [round(own, 1) for own in (*load, *os.getloadavg())]
    machine = f"{os.cpu_count()} cores, load {loads[0]} before and {loads[3]} after"
    print(f"{num_right} of {len(outcomes)} ended as the undisturbed run ({machine})")
    if args.json:
        told = {"seed": args.seed, "machine": machine, "settings": settings}
        told |= {"runs": [asdict(outcome) for outcome in outcomes]}
        args.json.write_text(json.dumps(told, indent=1) + "\n")
    return 0 if num_right == len(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
