"""Trials side by side on Ray Tune, each in a placement group.

Tune places and stops trials, asks the search for points and restarts lost trials. The sweep's
folder alone says which trials are finished, so that nothing depends on Tune's own state.
"""

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from filelock import FileLock, Timeout
from ray import tune
from ray.tune.error import TuneError
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule, TrialScheduler

from pipeline.cluster.session import check_node, free_resources
from spire_core.errors import ClusterError
from sweeps.design.config import SweepConfig
from sweeps.design.points import Trial, TuneParams
from sweeps.execution.search import optuna_search
from sweeps.execution.study import Progress, score_of
from sweeps.execution.trial import Command, run_trial

WAIT_NOTICE_S = 30.0
STOP_S = 20.0  # for trials to keep their last round before Ray ends them
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # whose handlers change meanwhile
WAITS = ("StoreError", "BusyError")  # a store or another process kept a trial from beginning
Say = Callable[[str], None]


class Narrator(tune.Callback):
    """Says when a trial begins, ends or is lost, what is left, and for what trials wait.

    `lost` has the trials that were lost for good, by Tune's id. `no_node`: the loss of this
    process's own node, after which Tune would wait for ever.
    """

    def __init__(self, command: Command, progress: Progress, num_runs: int, say: Say) -> None:
        self.command, self.say = command, say
        self.num_trials, self.num_runs, self.num_ended = progress.num_trials, num_runs, 0
        self.running, self.lost = dict[str, Trial](), dict[str, Trial]()
        self.no_node: ClusterError | None = None
        self.began = self.idle_since = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune copies it to `tuner.pkl`, and its trials may hold a password."""
        return {}

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        self.running[trial.trial_id] = own = self.command.trial(trial.config)
        lost = f"lost {trial.num_failures} times, starts again"
        self.say(f"{own.label}: {lost if trial.num_failures else 'begins'}")

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        own, sweep, study = self.running.pop(trial.trial_id), self.command.sweep, self.command.study
        if self.command.stop.exists():
            return
        status, result = study.status(own.trial_id), study.result(own.trial_id)
        if status == "unfinished" and sweep.scheduler != "none":
            status = "stopped"
            study.trial_file(own.trial_id, status).touch()
        score = None if result is None else score_of(sweep, result)
        told = "" if score is None else f", {sweep.metric} {score:.3g}"
        if result is not None and score is None and sweep.needs_metric:
            told = f", without {sweep.metric}: nothing is learnt from it"
        self._say_end(own, status + told)

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        own = self.running.pop(trial.trial_id, None) or self.command.trial(trial.config)
        self.lost[trial.trial_id] = own
        self._say_end(own, "lost for good")

    def _say_end(self, trial: Trial, told: str) -> None:
        self.num_ended += 1
        num_left = self.num_runs - self.num_ended
        done = self.num_ended + len(self.running) / 2  # those that run are half done, on average
        left_s = (time.monotonic() - self.began) / done * (self.num_runs - done)
        left = f"{left_s / 60:.0f} min left" if left_s >= 90 else f"{left_s:.0f} s left"
        self.say(f"{self.num_trials - num_left}/{self.num_trials}, {left} | {trial.label}: {told}")

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        now = time.monotonic()
        if any(trial.status == TuneTrial.RUNNING for trial in trials):
            self.idle_since = now
        elif now - self.idle_since > WAIT_NOTICE_S:
            self.idle_since = now
            try:
                check_node()
            except ClusterError as error:
                self.no_node = error
                raise
            needs = self.command.plan(self.command.trial(trials[-1].config)).describe()
            self.say(f"waiting for room for {needs}; free now: {free_resources()}")


def run_trials(command: Command, progress: Progress, max_rounds: int, say: Say) -> None:
    """Run the trials of a command, and record those that were lost for good.

    `max_rounds`: the highest number of rounds of any. ClusterError if this process's node of Ray is
    lost, or if another command is at this search.
    """
    num_runs = len(command.listed) + progress.num_undrawn
    narrator = Narrator(command, progress, num_runs, say)
    try:
        with _alone(command), _interruptible(narrator):
            results = _tuner(command, num_runs, max_rounds, narrator).fit()
    except TuneError as error:  # which stands for whatever a callback raises
        raise narrator.no_node or error from error
    errors = {(r.metrics or {}).get("trial_id"): r.error for r in results if r.error is not None}
    for tune_id, trial in narrator.lost.items():
        told = str(errors.get(tune_id) or "its process was lost").strip().splitlines()[-1]
        if any(kind in told for kind in WAITS):
            say(f"{trial.label} could not begin: {told}")
        elif command.study.status(trial.trial_id) == "unfinished":
            command.study.fail(trial.trial_id, told)


def _tuner(command: Command, num_runs: int, max_rounds: int, narrator: Narrator) -> tune.Tuner:
    """Return what runs the trials; a process goes on with another trial of the same needs."""
    sweep = command.sweep
    _be_quiet()

    def trainable(params: TuneParams) -> None:
        torch.set_num_threads(1)
        run_trial(command, command.trial(params), tune.report)

    def resources(params: TuneParams) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory(command.plan(command.trial(params)).bundles)

    space, search = {}, None
    if sweep.is_drawn:
        search = optuna_search(sweep, command.study, [*command.listed.values()])
    else:
        space = {"trial_id": tune.grid_search([*command.listed])}
    return tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=_scheduler(sweep, max_rounds),
            num_samples=num_runs if sweep.is_drawn else 1,
            max_concurrent_trials=command.at_once,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(command.study.folder),
            failure_config=tune.FailureConfig(max_failures=sweep.max_failures),
            callbacks=[narrator],
            verbose=0,
        ),
    )


def _scheduler(sweep: SweepConfig, max_rounds: int) -> TrialScheduler | None:
    common: dict[str, Any] = {"time_attr": "round", "metric": sweep.metric, "mode": sweep.mode}
    if sweep.scheduler == "median":
        return MedianStoppingRule(**common, grace_period=1)
    return ASHAScheduler(**common, max_t=max_rounds + 1) if sweep.scheduler == "asha" else None


def _be_quiet() -> None:
    """Keep Tune from tables, from advice on resuming, and from metrics of its own."""
    for name in "ray.tune.tune", "ray.tune.analysis":
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    os.environ.setdefault("TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S", "1000000")
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # see `_interruptible`


@contextlib.contextmanager
def _alone(command: Command) -> Iterator[None]:
    """Keep other commands from a search: they would take its draws for lost ones."""
    if not command.sweep.is_drawn:
        yield
        return
    try:
        with FileLock(command.study.folder / "search.lock", timeout=0):
            yield
    except Timeout as error:
        raise ClusterError(
            "expected one command at a search, got another one: wait until that ends"
        ) from error


@contextlib.contextmanager
def _interruptible(narrator: Narrator) -> Iterator[None]:
    """On SIGTERM and SIGINT, let trials keep their last round, then end Tune's loop.

    A second one does not wait. Tune leaves its own handlers behind, under which the next Ctrl-C
    would do nothing.
    """
    command = narrator.command

    def end(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        command.stop.touch()
        narrator.say("interrupted: the trials keep their last round")
        deadline = time.monotonic() + STOP_S
        locks = [command.study.lock(trial.trial_id) for trial in narrator.running.values()]
        while any(map(_is_held, locks)) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGUSR1)  # Tune's own handler ends its loop

    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    if is_main:
        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGINT, end)
        signal.signal(signal.SIGUSR1, signal.default_int_handler)  # until Tune has its own
    try:
        yield
    finally:
        command.stop.unlink(missing_ok=True)
        for number, handler in before.items() if is_main else ():
            if handler is not None:  # else it is none of Python's
                signal.signal(number, handler)


def _is_held(lock: FileLock) -> bool:
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True
