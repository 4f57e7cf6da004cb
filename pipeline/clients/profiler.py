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
        self.is_on_gpu = device.type == "cuda"
        self._profile: profile | None = None

    def start(self) -> None:
        """Start to record."""
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # no lines of its own on stderr
        gpu = [ProfilerActivity.CUDA] if self.is_on_gpu else []
        self._profile = profile(activities=[ProfilerActivity.CPU, *gpu], acc_events=True)
        self._profile.start()

    def save(self, folder: Path, name: str) -> bool:
        """Write the trace since the start; return False if there was no start here."""
        recorded = self.stop()
        if recorded is None:
            return False
        folder.mkdir(parents=True, exist_ok=True)
        recorded.export_chrome_trace(str(folder / f"{name}{TRACE_SUFFIX}"))
        order = "self_device_time_total" if self.is_on_gpu else "self_cpu_time_total"
        averages = recorded.key_averages()
        table = averages.table(sort_by=order, row_limit=NUM_OPERATORS, max_name_column_width=60)
        (folder / PROFILE_TABLE).write_text(f"{name}, sorted by {order}\n{table}")
        return True

    def stop(self) -> profile | None:
        """Stop, and return what was recorded; None if there was no start here."""
        recorded, self._profile = self._profile, None
        if recorded is not None:
            recorded.stop()
        return recorded
