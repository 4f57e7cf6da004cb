"""How far a sweep is, read from its ledger."""

from dataclasses import dataclass

from sweeps.design.config import SweepConfig
from sweeps.design.points import Trial, TuneParams, is_drawn_from, point_of, trials
from sweeps.execution.ledger import Ledger
from sweeps.execution.trial_record import TrialRecord


@dataclass(frozen=True)
class Progress:
    """The trials that can be named, and the records by id of those that have begun.

    These are all trials of a grid, and those that Optuna has drawn so far.
    """

    trials: list[Trial]
    records: dict[str, TrialRecord]
    num_undrawn: int  # draws that Optuna has still to make

    @property
    def num_trials(self) -> int:
        return len(self.trials) + self.num_undrawn

    def status(self, trial: Trial) -> str:
        """Return finished, failed, stopped (by the scheduler) or unfinished."""
        record = self.records.get(trial.trial_id)
        return "unfinished" if record is None or record.status == "running" else record.status

    def with_status(self, status: str) -> list[Trial]:
        """Return the trials of one status."""
        return [trial for trial in self.trials if self.status(trial) == status]

    def left(self, retry_failed: bool = False) -> list[Trial]:
        """Return the trials to run: unfinished ones, and on demand failed ones."""
        statuses = ("unfinished", "failed") if retry_failed else ("unfinished",)
        return [trial for trial in self.trials if self.status(trial) in statuses]


def read_progress(sweep: SweepConfig, ledger: Ledger) -> Progress:
    """Return how far a sweep is; equal draws of Optuna are one trial."""
    named, num_undrawn = None, 0
    if sweep.search == "optuna":
        draws = valid_draws(sweep, ledger)
        named = trials(sweep, [point_of(sweep, params) for params in draws])
        num_undrawn = max(0, (sweep.num_trials or 0) - len(draws))
    named = trials(sweep) if named is None else named
    records = ledger.records(trial.trial_id for trial in named)
    return Progress(named, records, num_undrawn)


def valid_draws(sweep: SweepConfig, ledger: Ledger) -> list[TuneParams]:
    """Return the parameters that Optuna has drawn for the sweep's axes, in order."""
    return [params for params in ledger.draws() if is_drawn_from(sweep, params)]
