"""Trials that other stretches of a study have finished, found in their committed rows."""

from pipeline.config.meaning import fingerprint
from spire_core.errors import ConfigError, DataError
from sweeps.design.config import SweepConfig
from sweeps.design.points import trials
from sweeps.execution.trial_record import TrialRecord
from sweeps.report.groups import seed_of
from sweeps.report.stretches import OPTION, Stretches, without_overruled


def finished_elsewhere(
    sweep: SweepConfig, stretches: Stretches
) -> tuple[dict[str, TrialRecord], Stretches]:
    """Return the records of trials that have rows, by id, and the stretches without other runs.

    A trial has rows if a run has its configuration's fingerprint and its seed; of several runs, the
    one that a report counts. ConfigError for a search, whose trials nobody knows beforehand;
    DataError if no trial has any.
    """
    if not stretches.runs:
        return {}, stretches
    if sweep.search == "optuna":
        raise ConfigError(
            f"expected search=grid or search=random with {OPTION}, got search=optuna: its trials "
            "are drawn here, by what was scored here"
        )
    by_key = {(fingerprint(t.config), t.config.seed): t.trial_id for t in trials(sweep)}
    keys = {r.run_id: (r.tags.get("config_fingerprint", ""), seed_of(r)) for r in stretches.runs}
    found = [run for run in stretches.runs if keys[run.run_id] in by_key]
    records = {}
    for run in without_overruled(found):
        trial_id = by_key[keys[run.run_id]]
        state = run.tags.get("state_fingerprint")
        result = {"metrics": dict(run.finals), "state_fingerprint": state}
        records[trial_id] = TrialRecord(trial_id, "finished", result=result)
    if not records:
        raise DataError(
            f"expected rows of trials of the sweep {sweep.name} in {OPTION}, got "
            f"{len(stretches.runs)} runs of other configurations or seeds: name rows of this sweep"
        )
    return records, stretches.of({run.run_id for run in found})
