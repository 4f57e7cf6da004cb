"""The only file that imports Ray Tune: runs trials side by side, each in a placement group.

Tune places and stops trials, draws points (Optuna) and begins anew what was lost. What is finished
is known from the ledger alone, so that nothing depends on Tune's own experiment state.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler

from pipeline.cluster.session import free_resources
from spire_core.errors import ConfigError
from sweeps.design.config import SweepConfig
from sweeps.design.trial_plan import TrialPlan
from sweeps.execution.trial import TrialTask, run_trial

WAIT_NOTICE_S = 30.0
Point = dict[str, Any]  # what Tune hands to a trial
Say = Callable[[str], None]


class Narrator(tune.Callback):
    """Says in one line when a trial starts, is evaluated or is lost, and what others wait for.

    `on_draw` is told each point as its trial starts for the first time; `ended` has the points of
    trials that came to an end by themselves or by the scheduler, not by an interruption; `lost`
    those of trials that were lost for good, by Tune's id.
    """

    def __init__(
        self, say: Say, label: Callable[[Point], str], needs: str, on_draw: Callable[[Point], None]
    ) -> None:
        self.say, self.label, self.needs, self.on_draw = say, label, needs, on_draw
        self.ended: list[Point] = []
        self.lost: dict[str, Point] = {}
        self.idle_since = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune copies it to `tuner.pkl`, and its functions may hold a password."""
        return {}

    def on_trial_start(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        if not trial.num_failures:
            self.on_draw(trial.config)
        again = "" if not trial.num_failures else f" (lost {trial.num_failures} times)"
        self.say(f"{self.label(trial.config)}: starts{again}")

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
        final = result.get("final/adapt_kid_after")
        where, kid = "new clients", final
        if final is None:
            where, kid = f"round {result.get('round')}", result.get("pretrain/kid/mean")
        if kid is not None:
            self.say(f"{self.label(trial.config)}: {where}, KID {kid:.4g}")

    def on_trial_error(
        self, iteration: int, trials: list[TuneTrial], trial: TuneTrial, **info: Any
    ) -> None:
        self.lost[trial.trial_id] = trial.config
        self.say(f"{self.label(trial.config)}: lost for good")

    def on_step_end(self, iteration: int, trials: list[TuneTrial], **info: Any) -> None:
        now = time.monotonic()
        if any(trial.status == TuneTrial.RUNNING for trial in trials):
            self.idle_since = now
        elif now - self.idle_since > WAIT_NOTICE_S:
            self.idle_since = now
            self.say(f"waiting for room for {self.needs}; free now: {free_resources()}")


def run_trials(
    sweep: SweepConfig,
    space: Mapping[str, Any],
    search: Any,
    make_task: Callable[[Point], TrialTask],
    make_plan: Callable[[Point], TrialPlan],
    narrator: Narrator,
    at_once: int,
    num_samples: int,
    max_rounds: int,
    folder: Path,
) -> dict[str, str]:
    """Run trials; return the last error of each that was lost for good, by trial id.

    `space` and `search` are `grid_of` or `optuna_of`; `max_rounds`: the most that a trial has.
    """
    _be_quiet()
    reports_rounds = search is None or sweep.scheduler == "asha"

    def trainable(point: Point) -> None:
        torch.set_num_threads(1)
        sys.unraisablehook = _unraisable
        run_trial(make_task(point), tune.report, reports_rounds)

    def resources(point: Point) -> tune.PlacementGroupFactory:
        return tune.PlacementGroupFactory(make_plan(point).bundles)

    scheduler = None
    if sweep.scheduler == "asha":
        scheduler = ASHAScheduler(
            time_attr="round", metric=sweep.metric, mode=sweep.mode, max_t=max_rounds + 1
        )
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space=dict(space),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=scheduler,
            num_samples=num_samples,
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
    with _sigterm_is_sigint():
        results = tuner.fit()
    errors = {(r.metrics or {}).get("trial_id"): r.error for r in results if r.error is not None}
    return {
        make_task(point).trial_id: str(errors.get(tune_id) or "its process was lost")
        .strip()
        .splitlines()[-1]
        for tune_id, point in narrator.lost.items()
    }


def _unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    """Print what Python cannot raise, but for the end that Ray gives to a trial's process.

    Ray's SIGTERM handler raises SystemExit wherever the process happens to be, such as in the
    callback of a weak reference.
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
def _sigterm_is_sigint() -> Iterator[None]:
    """End Tune's loop on SIGTERM as it ends on SIGINT: trials are stopped and nothing is lost."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def grid_of(trial_ids: Sequence[str]) -> dict[str, Any]:
    """Return the space of trials that are known beforehand."""
    return {"trial_id": tune.grid_search(list(trial_ids))}


def optuna_of(
    sweep: SweepConfig, evaluated: Sequence[tuple[Point, float]], begun: Sequence[Point]
) -> Any:
    """Return Optuna's search over the axes; a list is searched by the position in it.

    It has learned from the points `evaluated`, and tries those `begun` first.
    """
    try:
        from ray.tune.search.optuna import OptunaSearch

        logging.getLogger("optuna").setLevel(logging.WARNING)

        class Search(OptunaSearch):
            """Learns nothing from results without the metric, as of a method without rounds."""

            def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
                if result.get(sweep.metric) is not None:
                    super().on_trial_result(trial_id, result)

        search = Search(
            OptunaSearch.convert_search_space({n: _domain(a) for n, a in sweep.axes.items()}),
            metric=sweep.metric,
            mode=sweep.mode,
            points_to_evaluate=list(begun) or None,
            seed=sweep.seeds[0] + len(evaluated) + len(begun),
        )
    except (ImportError, AssertionError) as error:
        raise ConfigError(
            "expected the package optuna for search=optuna, got none: "
            "pip install 'spire-diffusion[search]'"
        ) from error
    for point, value in evaluated:
        search.add_evaluated_point(dict(point), value)
    return search


def _domain(axis: Any) -> Any:
    if isinstance(axis, list):
        return tune.choice(list(range(len(axis))))
    low, high, is_log = axis["min"], axis["max"], axis.get("log", False)
    if axis.get("integer"):
        return tune.lograndint(low, high + 1) if is_log else tune.randint(low, high + 1)
    return tune.loguniform(low, high) if is_log else tune.uniform(low, high)
