"""Who is scored in private rounds, where a run takes over the rounds of another or dies before."""

import shutil
from pathlib import Path

import pytest
from small_runs import Crash, Crasher, crashed, fingerprint_of, finished, small

from pipeline.checkpoint.evaluation_store import load_evaluations
from pipeline.clients.store import ClientStore
from pipeline.config.schema import Config
from pipeline.experiment.run import resume_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.files.atomic import read_object
from pipeline.results.result import Result
from pipeline.runs.layout import SCORED
from pipeline.tracking.outbox import read_points
from spire_core.errors import RunError

SETTINGS = ("tracking.checkpoint_every=1", "federation.num_clients=24", "federation.cohort_size=5")
SETTINGS += ("federation.num_rounds=3", "federation.num_new_clients=1", "eval.every=2")
SETTINGS += ("eval.num_clients=null", "client.opt_state=reset", "privacy.rounds.epsilon=8")
SETTINGS += ("privacy.rounds.noise_cohort=24",)


@pytest.fixture(scope="module")
def config(mnist_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return small(mnist_root, tmp_path_factory.mktemp("private"), *SETTINGS)


@pytest.fixture(scope="module")
def other(config: Config) -> Result:
    """A finished run, whose rounds another takes over."""
    return finished(config)


@pytest.fixture(scope="module")
def begun(config: Config) -> Path:
    """A run of the same settings, with a key of its own, that has ended in its rounds."""
    return crashed(config, 2)


def scored(run_dir: Path) -> list[int]:
    return read_object(run_dir / SCORED)["client_ids"]


def check_scores(result: Result) -> None:
    assert set(result.setting.eval_ids) <= set(scored(result.run_dir))
    evaluations = list(load_evaluations(result.run_dir, 3))
    assert [one.round_idx for one in evaluations] == [0, 2, 3]
    assert {one.client_ids for one in evaluations} == {tuple(result.setting.eval_ids)}


def test_of_rounds_that_were_copied_in_part_nothing_stays(
    config: Config, other: Result, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run trains by itself, and scores who took part in that."""
    run_dir, copy = Path(shutil.copytree(begun, tmp_path / "runs" / begun.name)), shutil.copy2

    def ending(file: Path, target: Path) -> None:
        if file.name == "0000000.safetensors":
            raise Crash
        copy(file, target)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copy2", ending)
        with pytest.raises(Crash):
            resume_experiment(run_dir, config, Watcher(), pretrained=other.run_dir)
    result = resume_experiment(run_dir, config, Watcher())
    trained = ClientStore(run_dir / "clients").rounds_seen(3).keys()
    assert trained == set(scored(run_dir)) != set(scored(other.run_dir))
    check_scores(result)
    assert result.state_fingerprint != other.state_fingerprint
    assert result.state_fingerprint == fingerprint_of(result, result.setting.new_ids)
    assert "partition_hash" not in (run_dir / "model" / "config.json").read_text()
    names = {name for _, metrics in read_points(run_dir) for name in metrics}
    assert "privacy/epsilon" in names
    assert "memory/rss_bytes" not in names, "a secret cohort moves the machine's load"
    (run_dir / SCORED).unlink()
    with pytest.raises(RunError, match=r"^expected the clients that took part"):
        finished(config, run_dir)


def test_a_run_that_has_taken_over_rounds_scores_who_took_part_in_them(
    config: Config, other: Result, begun: Path
) -> None:
    """Though it began rounds of its own, and also when it is resumed without the other run."""
    own = scored(begun)
    with pytest.raises(Crash):
        resume_experiment(begun, config, Crasher("pretrained"), pretrained=other.run_dir)
    found = resume_experiment(begun, config, Watcher())
    assert own != scored(begun) == scored(other.run_dir)
    assert found.setting.eval_ids == other.setting.eval_ids
    assert found.state_fingerprint == other.state_fingerprint
    check_scores(found)
