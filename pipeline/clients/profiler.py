"""A worker's side of `tracking.profile`: the start of torch.profiler, and the trace's file."""

import os
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from pipeline.runs.layout import PROFILE_TABLE, TRACE_SUFFIX

NUM_ROUNDS, NUM_OPERATORS = 3, 25


class WorkerProfiler:
    """torch.profiler on this process, and on the GPU if that is its device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._profile: profile | None = None

    def start(self) -> None:
        """Start to record."""
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # no lines of its own on stderr
        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        recording = profile(activities=activities, acc_events=True)
        recording.start()
        self._profile = recording

    def save(self, folder: Path, name: str) -> bool:
        """Write the trace since the start; return False if there was no start here."""
        if self._profile is None:
            return False
        self._profile.stop()
        _write(self._profile, self.device, folder, name)
        self._profile = None
        return True

    def stop(self) -> None:
        """Stop without a trace."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None


def _write(recorded: profile, device: torch.device, folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    recorded.export_chrome_trace(str(folder / f"{name}{TRACE_SUFFIX}"))
    order = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    averages = recorded.key_averages()
    table = averages.table(sort_by=order, row_limit=NUM_OPERATORS, max_name_column_width=60)
    (folder / PROFILE_TABLE).write_text(f"{name}, sorted by {order}\n{table}")
