"""The record of a run, without which nothing else in its folder is found."""

import os
from pathlib import Path

import pytest

from pipeline.config.tracking import TrackingConfig
from pipeline.runs.layout import RECORD
from pipeline.runs.record import make_run_dir, make_runs_folder, read_record


def test_a_record_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut leaves no empty record beside checkpoints that are whole."""
    config, synced = TrackingConfig(root=str(tmp_path)), list[bool]()
    make_runs_folder(config)
    path = tmp_path / "runs" / ("0" * 32) / RECORD
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(path.exists()))
    run_dir = make_run_dir(config, "0" * 32, "name", None)
    assert synced == [False]
    assert read_record(run_dir)["run_name"] == "name"
    assert [file.name for file in run_dir.iterdir()] == [RECORD]
