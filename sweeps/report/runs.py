"""The table of every run that a report was asked for, with the scores that others work with."""

from collections.abc import Sequence

from pipeline.evaluation.diagnosis import DIAGNOSIS
from pipeline.tracking.mlflow_queries import TrackedRun, is_known
from sweeps.report.differences import METRICS
from sweeps.report.groups import method_of
from sweeps.report.tables import ID_CHARS, Table


def runs_table(runs: Sequence[TrackedRun]) -> Table:
    """Return every run that was asked for, also those that the other tables leave out."""
    rows = [
        (
            run.name,
            run.run_id[:ID_CHARS],
            run.status,
            method_of(run),
            run.params.get("seed", run.tags.get("seed")),
            run.tags.get("state_fingerprint", "-")[:8],
            run.tags.get(DIAGNOSIS),
            run.tags.get("git_revision"),
            *(None if not is_known(n := run.finals.get(key)) else f"{n:.5g}" for _, key in METRICS),
        )
        for run in runs
    ]
    columns = ("run", "id", "status", "method", "seed", "state", "diagnosis", "revision")
    columns += tuple(name for name, _ in METRICS)
    text = (
        "State: the head of the fingerprint of all weights at the end; equal ones are equal runs. "
        "Diagnosis: known failures that the run shows (docs/diagnoses.md). Differences in these "
        "scores are worked out of them."
    )
    return Table("runs", "Runs", text, columns, tuple(rows))
