"""The sources of a sweep's trials: a list that is known beforehand, or the draws of Optuna."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sweeps.design.points import Trial, TuneParams, point_of, probes, trials
from sweeps.design.trial_plan import TrialPlan
from sweeps.execution.ledger import Ledger
from sweeps.execution.progress import valid_draws
from sweeps.execution.tasks import TaskMaker
from sweeps.execution.trial import TrialTask


@dataclass(frozen=True)
class SearchHistory:
    """Earlier draws of a search: those with a score, and those to start again before new ones.

    `num_lost`: draws that ended in neither way, which are not to be drawn again.
    """

    evaluated: Sequence[tuple[TuneParams, float]] = ()
    unfinished: Sequence[TuneParams] = ()
    num_lost: int = 0

    @property
    def num_draws(self) -> int:
        """The number of all earlier draws."""
        return len(self.evaluated) + len(self.unfinished) + self.num_lost


class TrialSource(ABC):
    """The trials that Tune runs, each by the parameters with which Tune starts it.

    Every trial's process gets a copy, and makes its task with it. `history` is None for a list.
    """

    history: SearchHistory | None = None
    trial_ids: Sequence[str] = ()  # of a list
    num_samples = 1  # how often Tune samples the parameters

    def __init__(self, maker: TaskMaker, example: Trial) -> None:
        self.maker, self.sweep = maker, maker.sweep
        self.ledger = Ledger(maker.folder)
        self.needs = maker.plan(example).describe()  # the resources of a typical trial, in words

    @abstractmethod
    def trial(self, params: TuneParams) -> Trial:
        """Return the trial that these parameters stand for."""

    def task(self, params: TuneParams) -> TrialTask:
        """Return the task of the trial."""
        return self.maker.task(self.trial(params), params)

    def plan(self, params: TuneParams) -> TrialPlan:
        """Return the resources that the trial asks of the cluster."""
        return self.maker.plan(self.trial(params))

    @abstractmethod
    def record_start(self, params: TuneParams) -> None:
        """Keep the parameters of a trial that starts, where the next command needs them."""

    def record_lost(self, errors: Mapping[str, str]) -> None:
        """Write the last error of each trial that was lost for good, by its id.

        Where a process lives on, or another command's has begun it, the trial is not lost.
        """
        for trial_id, error in errors.items():
            if self.ledger.is_held(trial_id):
                continue
            record = self.ledger.read(trial_id)
            # With a result it was lost after it had finished; with an error, which its own
            # process wrote, only the store kept it from beginning.
            if record is None or (record.result is None and record.error is None):
                self.ledger.update(trial_id, status="failed", error=error)

    def record_ended(self, ended: Iterable[TuneParams]) -> None:
        """Write that trials were stopped by the scheduler, where they ended and are unfinished.

        Without a scheduler, one that has ended and runs does so in another command.
        """
        if self.sweep.scheduler == "none":
            return
        for trial_id in {self.trial(params).trial_id for params in ended}:
            record = self.ledger.read(trial_id)
            if record is not None and record.status == "running":
                self.ledger.update(trial_id, status="stopped")


class ListedTrials(TrialSource):
    """Trials that are known beforehand; Tune starts each with its id."""

    def __init__(self, maker: TaskMaker, listed: Sequence[Trial]) -> None:
        super().__init__(maker, listed[0])
        self.by_id = {trial.trial_id: trial for trial in listed}
        self.trial_ids = tuple(self.by_id)
        # Relative paths are those of this process, so that the tasks are made here.
        self.tasks = {t.trial_id: maker.task(t, {"trial_id": t.trial_id}) for t in listed}

    def trial(self, params: TuneParams) -> Trial:
        return self.by_id[params["trial_id"]]

    def task(self, params: TuneParams) -> TrialTask:
        return self.tasks[params["trial_id"]]

    def record_start(self, params: TuneParams) -> None:
        """Keep nothing: the sweep's own file lists the trials."""


class OptunaTrials(TrialSource):
    """Trials at the points that Optuna draws, of which unfinished ones are started again first."""

    def __init__(self, maker: TaskMaker, unfinished: Sequence[Trial], num_undrawn: int) -> None:
        super().__init__(maker, (unfinished or probes(maker.sweep))[0])
        draws = valid_draws(self.sweep, self.ledger)
        drawn = {self.trial(params).trial_id: params for params in draws}
        again = [drawn[trial.trial_id] for trial in unfinished]
        evaluated = self._evaluated(drawn)
        num_lost = len(drawn) - len(evaluated) - len(again)
        self.history = SearchHistory(evaluated, tuple(again), num_lost)
        self.num_samples = len(again) + num_undrawn
        self._not_started = again

    def trial(self, params: TuneParams) -> Trial:
        [trial] = trials(self.sweep, [point_of(self.sweep, params)])
        return trial

    def record_start(self, params: TuneParams) -> None:
        """Keep a new draw; those that are started again have been kept before."""
        if params in self._not_started:
            self._not_started.remove(params)
        else:
            self.ledger.add_draw(params)

    def _evaluated(self, drawn: Mapping[str, TuneParams]) -> list[tuple[TuneParams, float]]:
        """Return the draws that have a finite score."""
        scores = {i: record.score(self.sweep) for i, record in self.ledger.records(drawn).items()}
        return [
            (dict(drawn[i]), score)
            for i, score in scores.items()
            if score is not None and math.isfinite(score)
        ]


def trial_source(maker: TaskMaker, left: Sequence[Trial], num_undrawn: int) -> TrialSource:
    """Return the source of the trials that are left, and of those still to be drawn."""
    if maker.sweep.search == "optuna":
        return OptunaTrials(maker, left, num_undrawn)
    return ListedTrials(maker, left)
