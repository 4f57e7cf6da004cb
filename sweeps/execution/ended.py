"""Runs that were killed right at their end: the result is there, and the rest is not."""

from pathlib import Path
from typing import Any

from pipeline.config.tracking import TrackingConfig, tracking_root
from pipeline.runs.folder import load_result
from pipeline.runs.noise_key import drop_noise_key
from pipeline.runs.ownership import check_links
from pipeline.tracking.tracker import end_run


def ended_result(run_dir: Path, tracking: TrackingConfig) -> dict[str, Any] | None:
    """Return the result that a run has written, and do the rest of its end; None without one.

    Its noise key goes, and its store has it as finished. RunError if its folder holds a link.
    """
    check_links(run_dir, tracking_root(tracking))
    values = load_result(run_dir)
    if values is not None:
        drop_noise_key(run_dir)
        end_run(run_dir, tracking, "FINISHED")
    return values
