"""What is refused before Ray has started, or before a run is recorded."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config.load import load_config
from pipeline.experiment.launch import ready_for
from spire_core.errors import ClusterError, ConfigError, DataError


def ignore(text: str) -> None:
    """Say nothing."""


@contextlib.contextmanager
def never() -> Iterator[None]:
    raise AssertionError("Ray was started")
    yield


def test_own_images_are_checked_before_ray_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pipeline.cluster.session.cluster", never)
    monkeypatch.chdir(tmp_path)
    absent = pytest.raises(DataError, match="expected a folder of images")
    with absent, ready_for(load_config("folder-cpu"), ignore):
        raise AssertionError


def test_a_run_goes_on_though_the_original_files_are_gone(mnist_root: Path, tmp_path: Path) -> None:
    words = ["resources.pool=local", f"data.root={mnist_root}", f"data.path={tmp_path / 'gone'}"]
    config = load_config("smoke", words)
    with pytest.raises(ConfigError, match="got none"), ready_for(config, ignore):
        raise AssertionError
    with ready_for(config, ignore, begins=False):
        pass


def test_actors_that_do_not_fit_are_refused_before_the_run_begins(
    mnist_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.cluster.session.cluster", contextlib.nullcontext)
    monkeypatch.setattr("pipeline.cluster.session.cluster_nodes", lambda: [{"CPU": 2.0}])
    config = load_config("smoke", ["resources.num_actors=3", f"data.root={mnist_root}"])
    with pytest.raises(ClusterError, match=r"lower resources\.num_act"), ready_for(config, ignore):
        raise AssertionError
