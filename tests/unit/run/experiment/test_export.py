"""The export of a finished run's model: until it is whole it counts as none."""

from pathlib import Path
from typing import Any

import pytest
from small_runs import Crash, Crasher, small

from pipeline.clients.worker import ClientWorker
from pipeline.experiment import run
from pipeline.experiment.run import resume_experiment, run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.inference.saved_run import open_run
from pipeline.runs.layout import CLIENTS, MODEL
from spire_core.errors import ClusterError, RunError


def crash(*_: Any) -> None:
    raise Crash


def crash_at_the_second_client(monkeypatch: pytest.MonkeyPatch) -> None:
    written, export = list[int](), ClientWorker.export

    def cut(worker: ClientWorker, client_id: int, folder: Path) -> str:
        if written:
            raise Crash
        written.append(client_id)
        return export(worker, client_id, folder)

    monkeypatch.setattr(ClientWorker, "export", cut)


def test_a_model_whose_export_was_cut_off_is_none_also_when_it_is_exported_again(
    mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("federation.num_clients=4", "federation.num_new_clients=1", "federation.cohort_size=2")
    config, watching = small(mnist_root, tmp_path, *few), Crasher()
    with monkeypatch.context() as patched:
        crash_at_the_second_client(patched)
        with pytest.raises(ClusterError):
            run_experiment(config, "smoke", watching)
    run_dir = watching.run_dir
    assert len(list((run_dir / MODEL / CLIENTS).iterdir())) == 1
    no_model = "expected a finished run"
    with pytest.raises(RunError, match=no_model):
        open_run(str(run_dir))

    with monkeypatch.context() as patched:
        patched.setattr(run, "write_result", crash)
        with pytest.raises(Crash):
            resume_experiment(run_dir, config, Watcher())
    assert len(open_run(str(run_dir)).client_ids) == 5  # the model is whole

    crash_at_the_second_client(monkeypatch)
    with pytest.raises(ClusterError):
        resume_experiment(run_dir, config, Watcher())
    with pytest.raises(RunError, match=no_model):
        open_run(str(run_dir))
