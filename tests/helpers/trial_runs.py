"""Runs of trials whose process is gone."""

from pathlib import Path

from pipeline.config.tracking import TrackingConfig
from pipeline.files.atomic import write_json
from pipeline.runs.layout import NOISE_KEY, RESULT
from pipeline.tracking.tracker import Tracker
from sweeps.execution.study import Study


def begun(
    study: Study, trial_id: str, tracking: TrackingConfig, metrics: dict[str, float] | None = None
) -> Path:
    """Return the folder of a trial's run, with a noise key and, given numbers, with a result."""
    tracker = Tracker.start(tracking, trial_id, {})
    tracker.leave()
    with study.lock(trial_id):  # its file stays
        pass
    study.write_run(study.trial_file(trial_id, "run"), tracker.run_dir)
    (tracker.run_dir / NOISE_KEY).write_bytes(bytes(range(32)))
    if metrics is not None:
        write_json(tracker.run_dir / RESULT, {"metrics": metrics})
    return tracker.run_dir
