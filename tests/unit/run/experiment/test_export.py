"""The export of a finished run's model: until it is whole it counts as none."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import main as cli
from pipeline.clients.worker import ClientWorker
from pipeline.config.load import load_config
from pipeline.config.schema import Config
from pipeline.experiment import run
from pipeline.experiment.run import resume_experiment, run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.inference.saved_run import open_run
from pipeline.runs.layout import CLIENTS, MODEL
from spire_core.errors import ClusterError, RunError

NUM_CLIENTS = 4
SMALL = ("model.width=8", "federation.num_rounds=2", "federation.cohort_size=2", "adapt.epochs=1")
SMALL += ("eval.num_images=8", "eval.num_loss_images=8", "eval.num_clients=2", "eval.every=0")
SMALL += ("diffusion.sample_steps=2", "resources.pool=local", "tracking.enabled=false")
SMALL += (f"federation.num_clients={NUM_CLIENTS}", "federation.num_new_clients=1")


class Crash(Exception):
    """What a test ends a run with."""


class Watching(Watcher):
    """Knows where its run is."""

    run_dir = Path()

    def started(self, run_dir: Path) -> None:
        self.run_dir = run_dir


def config_for(mnist_root: Path, root: Path) -> Config:
    return load_config("smoke", [f"data.root={mnist_root}", f"tracking.root={root}", *SMALL])


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
    config, watching = config_for(mnist_root, tmp_path), Watching()
    with monkeypatch.context() as patched:
        crash_at_the_second_client(patched)
        with pytest.raises(ClusterError):
            run_experiment(config, "smoke", watching)
    run_dir = watching.run_dir
    assert len(list((run_dir / MODEL / CLIENTS).iterdir())) == 1
    no_model = rf"expected a finished run in {run_dir}.*, got .*No such file"
    with pytest.raises(RunError, match=no_model):
        open_run(str(run_dir))

    with monkeypatch.context() as patched:
        patched.setattr(run, "write_result", crash)
        with pytest.raises(Crash):
            resume_experiment(run_dir, config, Watcher())
    assert len(open_run(str(run_dir)).client_ids) == NUM_CLIENTS + 1  # the model is whole

    with monkeypatch.context() as patched:
        crash_at_the_second_client(patched)
        with pytest.raises(ClusterError):
            resume_experiment(run_dir, config, Watcher())
    with pytest.raises(RunError, match=no_model):
        open_run(str(run_dir))
    resume_experiment(run_dir, config, Watcher())
    assert len(open_run(str(run_dir)).client_ids) == NUM_CLIENTS + 1


def test_a_mean_of_no_embedding_is_refused(
    mnist_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = run_experiment(config_for(mnist_root, tmp_path), "smoke", Watcher()).run_dir
    for path in (run_dir / MODEL / CLIENTS).iterdir():
        path.unlink()
    words = ["adapt.init=mean", f"data.root={mnist_root}", f"tracking.root={tmp_path}"]
    assert cli.main(["adapt", str(run_dir), "--data", "mnist", "--num-images", "8", *words]) == 2
    assert "expected clients' embeddings" in capsys.readouterr().err
