"""Trials side by side on Ray Tune, each in a placement group.

Tune places and stops trials, draws points (Optuna) and restarts lost trials. The ledger alone says
which trials are finished, so that nothing depends on Tune's own experiment state.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune.error import TuneError
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import Searcher

from pipeline.cluster.session import check_node, free_resources
from spire_core.errors import ClusterError
from sweeps.design.config import SweepConfig
from sweeps.design.points import TuneParams
from sweeps.execution.source import TrialSource
from sweeps.execution.trial import run_trial
from sweeps.execution.tune_search import optuna_search

WAIT_NOTICE_S = 30.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # whose handlers change meanwhile
Say = Callable[[str], None]


class Narrator(tune.Callback):
    """Says in one line when a trial starts, is evaluated or is lost, and for what others wait.

    `ended` has the parameters of trials that ended by themselves or by the scheduler, not by an
    interruption. `lost` has those of trials that were lost for good, by Tune's id. `no_node`: the
    loss of this process's own node, after which Tune would wait for ever.
    """

    def __init__(self, source: TrialSource, say: Say) -> None:
        self.source, self.say = source, say
        self.ended: list[TuneParams] = []
        self.lost: dict[str, TuneParams] = {}
        self.no_node: ClusterError | None = None
        self.idle_since = time.monotonic()

    def label(self, trial: TuneTrial) -> str:
        return self.source.trial(trial.config).label

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune copies it to `tuner.pkl`, and its source may hold a password."""
        return {}

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        if not trial.num_failures:
            self.source.record_start(trial.config)
        again = "" if not trial.num_failures else f" (lost {trial.num_failures} times)"
        self.say(f"{self.label(trial)}: starts{again}")

    def on_trial_complete(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        self.ended.append(trial.config)

    def on_trial_result(
        self,
        iteration: int,
        trials: list[TuneTrial],
        trial: TuneTrial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        place, kid = "new clients", result.get("final/adapt_kid_after")
        if kid is None:
            place, kid = f"round {result.get('round')}", result.get("pretrain/kid/mean")
        if kid is not None:
            self.say(f"{self.label(trial)}: {place}, KID {kid:.4g}")

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        self.lost[trial.trial_id] = trial.config
        self.say(f"{self.label(trial)}: lost for good")

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
            self.say(f"waiting for room for {self.source.needs}; free now: {free_resources()}")


def run_trials(source: TrialSource, at_once: int, max_rounds: int, folder: Path, say: Say) -> None:
    """Run the trials of a source, and record those that were lost for good or stopped.

    `at_once`: trials side by side. `max_rounds`: the highest number of rounds of any trial.
    ClusterError if this process's node of Ray is lost.
    """
    _be_quiet()
    narrator = Narrator(source, say)
    tuner = _tuner(source, at_once, max_rounds, folder, narrator)
    try:
        with _signals_end_trials():
            results = tuner.fit()
        source.record_lost(_lost_errors(source, narrator.lost, results))
    except TuneError as error:  # which stands for whatever a callback raises
        if narrator.no_node is None:
            raise
        raise narrator.no_node from error
    finally:
        source.record_ended(narrator.ended)


def _tuner(
    source: TrialSource, at_once: int, max_rounds: int, folder: Path, narrator: Narrator
) -> tune.Tuner:
    sweep = source.sweep
    reports_rounds = source.history is None or sweep.scheduler == "asha"

    def trainable(params: TuneParams) -> None:
        torch.set_num_threads(1)
        sys.unraisablehook = _unraisable
        run_trial(source.task(params), tune.report, reports_rounds)

    def resources(params: TuneParams) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory(source.plan(params).bundles)

    param_space, search = _search(source)
    return tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space=param_space,
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=_scheduler(sweep, max_rounds),
            num_samples=source.num_samples,
            max_concurrent_trials=at_once,
            time_budget_s=sweep.budget_s,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            failure_config=tune.FailureConfig(max_failures=sweep.max_failures),
            callbacks=[narrator],
            verbose=0,
        ),
    )


def _scheduler(sweep: SweepConfig, max_rounds: int) -> ASHAScheduler | None:
    if sweep.scheduler != "asha":
        return None
    return ASHAScheduler(
        time_attr="round", metric=sweep.metric, mode=sweep.mode, max_t=max_rounds + 1
    )


def _lost_errors(
    source: TrialSource, lost: Mapping[str, TuneParams], results: tune.ResultGrid
) -> dict[str, str]:
    """Return the last line of the error of each trial that was lost for good, by trial id."""
    errors = {(r.metrics or {}).get("trial_id"): r.error for r in results if r.error is not None}
    messages = {tune_id: str(errors.get(tune_id) or "its process was lost") for tune_id in lost}
    return {
        source.trial(params).trial_id: messages[tune_id].strip().splitlines()[-1]
        for tune_id, params in lost.items()
    }


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Print an unraisable exception, unless it is the SystemExit with which Ray ends a trial.

    Ray's SIGTERM handler raises it wherever the process happens to be, such as in the callback of
    a weak reference.
    """
    if not isinstance(unraisable.exc_value, SystemExit):
        sys.__unraisablehook__(unraisable)


def _be_quiet() -> None:
    """Keep Tune from tables, from advice on resuming, and from asking for every metric."""
    logging.getLogger("ray.tune.tune").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    os.environ.setdefault("TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S", "1000000")


@contextlib.contextmanager
def _signals_end_trials() -> Iterator[None]:
    """End Tune's loop on SIGTERM as it ends on SIGINT: trials are stopped and nothing is lost.

    Tune leaves its own handlers behind, under which the next Ctrl-C would do nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None:  # else it is none of Python's
                signal.signal(number, handler)


def _search(source: TrialSource) -> tuple[dict[str, Any], Searcher | None]:
    """Return the space of parameters and the search in it; of a list, a grid without a search."""
    if source.history is None:
        return {"trial_id": tune.grid_search(list(source.trial_ids))}, None
    return {}, optuna_search(source.sweep, source.history)
