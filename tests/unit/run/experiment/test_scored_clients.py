"""Who is scored in private rounds, where a run takes over the rounds of another or dies before."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.checkpoint.evaluation_store import load_evaluations
from pipeline.clients.store import ClientStore
from pipeline.config.load import load_config
from pipeline.config.schema import Config
from pipeline.experiment.run import resume_experiment, run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.files.atomic import read_object
from pipeline.results.result import Result
from pipeline.runs.layout import SCORED

SETTINGS = (
    "tracking.enabled=false",
    "tracking.checkpoint_every=1",
    "resources.pool=local",
    "federation.num_clients=24",
    "federation.cohort_size=5",
    "federation.num_rounds=3",
    "federation.num_new_clients=1",
    "adapt.epochs=1",
    "eval.every=2",
    "eval.num_images=8",
    "eval.num_loss_images=8",
    "diffusion.sample_steps=2",
    "client.opt_state=reset",
    "privacy.rounds.epsilon=8",
    "privacy.rounds.noise_cohort=24",
)


class Crash(Exception):
    """What a test ends a run with."""


class Crasher(Watcher):
    """Ends a run before its first stage, or after its second round."""

    def __init__(self, after_rounds: bool) -> None:
        self.after_rounds = after_rounds

    def started(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        if not self.after_rounds:
            raise Crash

    def after_round(self, stats, driver) -> None:
        if stats.round_idx == 1:
            raise Crash


@pytest.fixture(scope="module")
def config(mnist_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("private")
    return load_config("smoke", [*SETTINGS, f"data.root={mnist_root}", f"tracking.root={root}"])


@pytest.fixture(scope="module")
def other(config: Config) -> Result:
    """A finished run, whose rounds another takes over."""
    return run_experiment(config, None, Watcher())


@pytest.fixture
def begun(config: Config) -> Iterator[Path]:
    """A run of the same settings, with a key of its own, that has ended in its rounds."""
    crasher = Crasher(after_rounds=True)
    with pytest.raises(Crash):
        run_experiment(config, None, crasher)
    yield crasher.run_dir
    shutil.rmtree(crasher.run_dir)


def scored(run_dir: Path) -> list[int]:
    return read_object(run_dir / SCORED)["client_ids"]


def check_own_rounds(result: Result, other: Result) -> None:
    """Check that a run has trained by itself, and scores who took part in that."""
    trained = ClientStore(result.run_dir / "clients").rounds_seen(3).keys()
    assert trained == set(scored(result.run_dir)) != set(scored(other.run_dir))
    check_scores(result)
    assert result.state_fingerprint != other.state_fingerprint


def check_scores(result: Result) -> None:
    assert set(result.setting.eval_ids) <= set(scored(result.run_dir))
    evaluations = list(load_evaluations(result.run_dir, 3))
    assert [one.round_idx for one in evaluations] == [0, 2, 3]
    assert {one.client_ids for one in evaluations} == {tuple(result.setting.eval_ids)}


def test_a_run_that_failed_in_rounds_of_its_own_takes_over_those_of_another(
    config: Config, other: Result, begun: Path
) -> None:
    own = scored(begun)
    found = resume_experiment(begun, config, Watcher(), pretrained=other.run_dir)
    assert own != scored(found.run_dir) == scored(other.run_dir)
    assert found.setting.eval_ids == other.setting.eval_ids
    assert found.state_fingerprint == other.state_fingerprint
    check_scores(found)


def test_a_run_that_ended_before_it_took_over_anything_scores_its_own_rounds(
    config: Config, other: Result
) -> None:
    crasher = Crasher(after_rounds=False)
    with pytest.raises(Crash):
        run_experiment(config, None, crasher, pretrained=other.run_dir)
    shutil.copy(other.run_dir / SCORED, crasher.run_dir)  # as older versions did
    check_own_rounds(resume_experiment(crasher.run_dir, config, Watcher()), other)


@pytest.mark.parametrize("name", ["server.safetensors", "0000000.safetensors"])
def test_of_rounds_that_were_copied_in_part_nothing_stays(
    config: Config, other: Result, begun: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copy2

    def ending(file: Path, target: Path) -> None:
        if file.name == name:
            raise Crash
        copy(file, target)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copy2", ending)
        with pytest.raises(Crash):
            resume_experiment(begun, config, Watcher(), pretrained=other.run_dir)
    check_own_rounds(resume_experiment(begun, config, Watcher()), other)


def test_a_run_that_has_taken_over_rounds_scores_who_took_part_in_them(
    config: Config, other: Result
) -> None:
    """Also when it is resumed without the other run."""

    class Ending(Watcher):
        def pretrained(self, run_dir: Path) -> None:
            self.run_dir = run_dir
            raise Crash

    ending = Ending()
    with pytest.raises(Crash):
        run_experiment(config, None, ending, pretrained=other.run_dir)
    found = resume_experiment(ending.run_dir, config, Watcher())
    assert found.state_fingerprint == other.state_fingerprint
    assert scored(found.run_dir) == scored(other.run_dir)
    check_scores(found)
