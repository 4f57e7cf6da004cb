"""The record of a trial: how far it is, and what it found."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args

from pipeline.results.metric_names import final_name
from sweeps.design.config import SweepConfig
from sweeps.design.points import TuneParams

Status = Literal["running", "finished", "failed", "stopped"]


@dataclass(frozen=True)
class TrialRecord:
    """The state of a trial that has begun.

    `point` holds the parameters with which Tune started it, `result` the object that
    `spire run --json` prints. `error` says in one sentence why the trial failed or, if it is
    running, why it could not begin.
    """

    trial_id: str
    status: Status
    run_dir: str | None = None
    point: TuneParams | None = None
    result: dict[str, Any] | None = None
    error: str | None = None

    @property
    def run_id(self) -> str | None:
        return None if self.run_dir is None else Path(self.run_dir).name

    def score(self, sweep: SweepConfig) -> float | None:
        """Return a finished trial's value of the sweep's metric; of a round's, after the last."""
        metrics = (self.result or {}).get("metrics", {})
        return metrics.get(sweep.metric, metrics.get(final_name(sweep.metric)))


def is_record(values: Mapping[str, Any]) -> bool:
    """Return whether values have the keys and the types of a `TrialRecord`."""
    if values.keys() != {field.name for field in fields(TrialRecord)}:
        return False
    result, error = values["result"], values["error"]
    return (
        values["status"] in get_args(Status)
        and (values["run_dir"] is None or is_path(values["run_dir"]))
        and isinstance(values["point"], dict | None)
        and isinstance(result, dict | None)
        and isinstance(error, str | None)
    )


def is_path(value: Any) -> TypeGuard[str]:
    """Return whether a value may be a path."""
    return isinstance(value, str) and value != "" and "\0" not in value
