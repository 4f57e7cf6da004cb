"""Scores of pre-training are worked out beside the next rounds, and nothing of them is lost."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline import evaluation
from pipeline.checkpoint import kept_rounds
from pipeline.config import load_config
from pipeline.driver import RoundStats
from pipeline.evaluation import Evaluation
from pipeline.evaluation_store import load_evaluations
from pipeline.experiment import resume_experiment, run_experiment
from pipeline.progress import Watcher
from pipeline.schema import Config
from spire_core.errors import DataError
from spire_core.kid import KidScore, kid

SLOW_S = 1.0  # as long as many of these rounds
EVALUATED = [0, 4, 6]


class Crash(Exception):
    """What a test ends a run with."""


class Witness(Watcher):
    """Keeps what it is told in order: rounds done, and evaluations by the round they are of."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error, self.run_dir = error, Path()
        self.told: list[tuple[str, int]] = []
        self.evaluations: list[list[int]] = []  # that were on disk as each round ended
        self.two_rounds = threading.Event()

    def started(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def round_done(self, stats: RoundStats, num_rounds: int) -> None:
        self.told.append(("round", stats.round_idx + 1))
        self.evaluations.append(on_disk(self.run_dir))
        if stats.round_idx == 1:
            self.two_rounds.set()
        if self.error is not None:
            raise self.error

    def evaluated(self, evaluation: Evaluation, floor: float) -> None:
        self.told.append(("evaluation", evaluation.round_idx))


def on_disk(run_dir: Path) -> list[int]:
    return [e.round_idx for e in load_evaluations(run_dir, 99)]


@pytest.fixture
def config(mnist_root: Path, tmp_path: Path) -> Config:
    small = ["model.width=8", "eval.num_images=8", "eval.num_loss_images=8", "eval.num_clients=2"]
    rounds = ["federation.num_rounds=6", "federation.cohort_size=2", "eval.every=4"]
    where = [f"data.root={mnist_root}", f"tracking.root={tmp_path}", "resources.pool=local"]
    more = ["tracking.enabled=false", "tracking.checkpoint_every=4", "adapt.epochs=1"]
    return load_config("smoke", [*small, *rounds, *where, *more, "diffusion.sample_steps=2"])


def slow(*args: Any) -> KidScore:
    time.sleep(SLOW_S)
    return kid(*args)


def test_rounds_go_on_while_scores_are_worked_out(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [e.metrics() for e in run_experiment(config, None, Watcher()).evaluations]
    witness, waited = Witness(), []

    def patient(*args: Any) -> KidScore:
        waited.append(witness.two_rounds.wait(60.0))
        return kid(*args)

    monkeypatch.setattr(evaluation, "kid", patient)
    result = run_experiment(config, None, witness)
    assert waited
    assert all(waited)  # two rounds ended before the first evaluation did
    assert witness.told.index(("evaluation", 0)) >= 2
    assert [e.round_idx for e in result.evaluations] == EVALUATED
    assert [e.metrics() for e in result.evaluations] == expected


def test_a_checkpoint_and_the_next_evaluation_wait_for_scores(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "kid", slow)
    witness = Witness()
    run_experiment(config, None, witness)
    assert witness.evaluations[:4] == [[], [], [], [0]]
    assert witness.told[-1] == ("evaluation", 6)


def test_an_interrupt_loses_no_scores(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "kid", slow)
    interrupted = Witness(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run_experiment(config, None, interrupted)
    assert interrupted.told == [("round", 1), ("evaluation", 0)]
    assert on_disk(interrupted.run_dir) == [0]
    assert kept_rounds(interrupted.run_dir) == (1,)
    monkeypatch.undo()
    later = Witness()
    result = resume_experiment(interrupted.run_dir, config, later)
    assert [e.round_idx for e in result.evaluations] == EVALUATED
    assert ("evaluation", 0) not in later.told
    assert later.told[0] == ("round", 2)


def test_the_end_of_a_run_by_an_error_loses_no_scores(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "kid", slow)
    crashed = Witness(Crash())
    with pytest.raises(Crash):
        run_experiment(config, None, crashed)
    assert on_disk(crashed.run_dir) == [0]


def test_what_is_wrong_with_scores_ends_the_run(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*args: Any) -> KidScore:
        raise DataError("KID expected finite features, got others")

    monkeypatch.setattr(evaluation, "kid", wrong)
    with pytest.raises(DataError, match="got others"):
        run_experiment(config, None, Watcher())
