"""A worker's side of `tracking.profile`: the start of torch.profiler, and the trace's file."""

import os
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from pipeline.files.atomic import room_for
from pipeline.runs.layout import PROFILE_TABLE, TRACE_SUFFIX

NUM_ROUNDS, NUM_OPERATORS = 3, 25


def start_profile(device: torch.device) -> profile:
    """Return a profiler that watches this process, and the GPU if that is its device."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # no lines of its own on stderr
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    watching = profile(activities=activities, acc_events=True)
    watching.start()
    return watching


def save_profile(watching: profile, device: torch.device, folder: Path, name: str) -> None:
    """Stop a profiler and write its trace."""
    watching.stop()
    with room_for(folder):
        folder.mkdir(parents=True, exist_ok=True)
        watching.export_chrome_trace(str(folder / f"{name}{TRACE_SUFFIX}"))
        order = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
        found = watching.key_averages()
        table = found.table(sort_by=order, row_limit=NUM_OPERATORS, max_name_column_width=60)
        (folder / PROFILE_TABLE).write_text(f"{name}, sorted by {order}\n{table}")
