"""Scores of pre-training are worked out beside the next rounds, and nothing of them is lost."""

import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoint.evaluation_store import load_evaluations, save_evaluation
from pipeline.checkpoint.snapshots import kept_rounds
from pipeline.config.load import load_config, overridden
from pipeline.config.schema import Config
from pipeline.evaluation import scores
from pipeline.evaluation.scores import Evaluation
from pipeline.experiment import evaluator
from pipeline.experiment.evaluator import Evaluator
from pipeline.experiment.run import resume_experiment, run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import Driver
from pipeline.federation.rounds import RoundStats
from pipeline.results.result import Result
from spire_core.errors import DataError
from spire_core.evaluation.kid import KidScore, kid
from spire_core.federated.messages import RoundPlan

EVALUATED = [0, 4, 6]


class Crash(Exception):
    """What a test ends a run with."""


class Witness(Watcher):
    """Keeps what it is told in order: rounds done, and evaluations by the round they are of."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error, self.run_dir = error, Path()
        self.told: list[tuple[str, int]] = []
        self.one_round, self.two_rounds = threading.Event(), threading.Event()

    def started(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def after_round(self, stats: RoundStats, driver: Driver) -> None:
        self.told.append(("round", stats.round_idx + 1))
        if stats.round_idx == 0:
            self.one_round.set()
        if stats.round_idx == 1:
            self.two_rounds.set()
        if self.error is not None:
            raise self.error

    def evaluated(self, evaluation: Evaluation, floor: float) -> None:
        self.told.append(("evaluation", evaluation.round_idx))


def rounds_of(result: Result) -> list[int]:
    return [e.round_idx for e in result.pretraining.evaluations]


def metrics_of(result: Result) -> list[dict[str, float]]:
    return [e.metrics() for e in result.pretraining.evaluations]


def on_disk(run_dir: Path) -> list[int]:
    return [e.round_idx for e in load_evaluations(run_dir, 99)]


def config_for(mnist_root: Path, root: Path) -> Config:
    small = ["model.width=8", "eval.num_images=8", "eval.num_loss_images=8", "eval.num_clients=2"]
    rounds = ["federation.num_rounds=6", "federation.cohort_size=2", "federation.tau=1"]
    where = [f"data.root={mnist_root}", f"tracking.root={root}", "resources.pool=local"]
    more = ["tracking.enabled=false", "tracking.checkpoint_every=4", "eval.every=4"]
    new = ["federation.num_new_clients=1", "adapt.num_images=8", "adapt.epochs=1"]
    return load_config("smoke", [*small, *rounds, *where, *more, *new, "diffusion.sample_steps=2"])


@pytest.fixture
def config(mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(evaluator, "ENDING_S", 60.0)  # slow machines need seconds for scores
    return config_for(mnist_root, tmp_path)


@pytest.fixture(scope="module")
def expected(mnist_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    """The scores of a run that nothing holds up."""
    config = config_for(mnist_root, tmp_path_factory.mktemp("expected"))
    return metrics_of(run_experiment(config, None, Watcher()))


def held_until(event: threading.Event) -> Any:
    """A `kid` that waits for an event."""

    def late(*args: Any) -> KidScore:
        assert event.wait(60.0)
        return kid(*args)

    return late


def test_rounds_go_on_while_scores_are_worked_out(
    config: Config, expected: list[dict[str, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = Witness()
    monkeypatch.setattr(scores, "kid", held_until(witness.two_rounds))
    result = run_experiment(config, None, witness)
    assert witness.told.index(("evaluation", 0)) >= 2
    assert rounds_of(result) == EVALUATED
    assert [len(e.drawn) for e in result.pretraining.evaluations] == [0, 0, 2]  # the last one's
    assert metrics_of(result) == expected
    stored = [e.drawn[0] for e in load_evaluations(witness.run_dir, 99)]
    last = result.pretraining.evaluations[-1].drawn[0].features
    assert [len(one.features) for one in stored] == [0, 0, len(last)]  # read again by a resume
    assert all(len(one.images) for one in stored)  # and these where the pre-training is reused


def test_no_round_begins_before_scores_that_may_stop_the_run(config: Config) -> None:
    witness = Witness()
    witness.may_stop = True
    run_experiment(config, None, witness)
    rounds = [("round", r) for r in range(1, 7)]
    evaluations = {0: ("evaluation", 0), 5: ("evaluation", 4), 8: ("evaluation", 6)}
    for position, told in evaluations.items():
        rounds.insert(position, told)
    assert witness.told == rounds


@pytest.mark.parametrize(
    ("every", "checkpoint_every", "first_after"), [(99, 3, 3), (3, 99, 3), (2, 0, 2)]
)
def test_a_checkpoint_and_the_next_evaluation_wait_for_scores(
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    every: int,
    checkpoint_every: int,
    first_after: int,
) -> None:
    words = [f"eval.every={every}", f"tracking.checkpoint_every={checkpoint_every}"]
    witness, is_waited_for, collect = Witness(), threading.Event(), Evaluator.collect

    def noticed(self: Evaluator, wait_s: float | None = None) -> Evaluation | None:
        if wait_s is None and witness.told:
            is_waited_for.set()
        return collect(self, wait_s)

    monkeypatch.setattr(Evaluator, "collect", noticed)
    monkeypatch.setattr(scores, "kid", held_until(is_waited_for))
    result = run_experiment(overridden(config, words), None, witness)
    until = [told for told in witness.told if told[0] == "round" or told[1] == 0]
    assert until.index(("evaluation", 0)) == first_after - 1  # when that round has ended
    assert rounds_of(result) == sorted({0, 6, *range(0, 6, every)})


def test_an_interrupt_loses_no_scores(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = Witness(KeyboardInterrupt())
    monkeypatch.setattr(scores, "kid", held_until(interrupted.one_round))
    with pytest.raises(KeyboardInterrupt):
        run_experiment(config, None, interrupted)
    assert interrupted.told == [("round", 1), ("evaluation", 0)]
    assert on_disk(interrupted.run_dir) == [0]
    assert kept_rounds(interrupted.run_dir) == (1,)
    monkeypatch.undo()
    later = Witness()
    result = resume_experiment(interrupted.run_dir, config, later)
    assert rounds_of(result) == EVALUATED
    assert ("evaluation", 0) not in later.told
    assert later.told[0] == ("round", 2)


@pytest.mark.parametrize("at", [0, 6])  # beside rounds, and after the last of them
def test_an_interrupted_record_of_scores_is_made_again(
    config: Config, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    saved = []

    def interrupted(run_dir: Path, made: Evaluation) -> None:
        saved.append(made.round_idx)
        if made.round_idx == at and saved.count(at) == 1:
            raise KeyboardInterrupt
        save_evaluation(run_dir, made)

    monkeypatch.setattr(evaluator, "save_evaluation", interrupted)
    witness = Witness()
    with pytest.raises(KeyboardInterrupt):
        run_experiment(config, None, witness)
    assert saved[-2:] == [at, at]
    assert on_disk(witness.run_dir)[-1] == at
    result = resume_experiment(witness.run_dir, config, Watcher())
    assert rounds_of(result) == EVALUATED


def test_an_interrupt_does_not_wait_long_for_scores(
    config: Config,
    expected: list[dict[str, float]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It goes back to a checkpoint that is not beyond the evaluation."""
    never = threading.Event()
    interrupted = Witness(KeyboardInterrupt())
    monkeypatch.setattr(evaluator, "ENDING_S", 0.2)
    monkeypatch.setattr(scores, "kid", held_until(never))
    with pytest.raises(KeyboardInterrupt):
        run_experiment(config, None, interrupted)
    assert caplog.text.count("are lost: still being worked out after 0.2 s") == 1
    assert on_disk(interrupted.run_dir) == []
    assert kept_rounds(interrupted.run_dir) == ()
    monkeypatch.undo()
    never.set()
    result = resume_experiment(interrupted.run_dir, config, Watcher())
    assert metrics_of(result) == expected


def test_an_interrupt_in_the_round_after_an_evaluation_needs_no_scores(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its checkpoint is of the evaluated state, which the resumed run evaluates."""
    config = overridden(config, ["eval.every=2", "tracking.checkpoint_every=0"])
    expected = metrics_of(run_experiment(config, None, Watcher()))
    witness, never, total_of = Witness(), threading.Event(), Driver._total

    def slow(*args: Any) -> KidScore:
        assert ("evaluation", 0) not in witness.told or never.wait(60.0)
        return kid(*args)

    def interrupted(self: Driver, plan: RoundPlan, handle: Any) -> Any:
        if plan.round_idx == 2:
            raise KeyboardInterrupt
        return total_of(self, plan, handle)

    monkeypatch.setattr(evaluator, "ENDING_S", 0.2)
    monkeypatch.setattr(scores, "kid", slow)
    monkeypatch.setattr(Driver, "_total", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(config, None, witness)
    assert caplog.text.count("are lost: still being worked out after 0.2 s") == 1
    assert on_disk(witness.run_dir) == [0]
    assert kept_rounds(witness.run_dir) == (2,)
    monkeypatch.undo()
    never.set()
    result = resume_experiment(witness.run_dir, config, Watcher())
    assert metrics_of(result) == expected


def test_the_end_of_a_run_by_an_error_loses_no_scores(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed = Witness(Crash())
    monkeypatch.setattr(scores, "kid", held_until(crashed.one_round))
    with pytest.raises(Crash):
        run_experiment(config, None, crashed)
    assert on_disk(crashed.run_dir) == [0]


def test_what_is_wrong_with_scores_ends_the_run(
    config: Config, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(*args: Any) -> KidScore:
        raise DataError("KID expected finite features, got others")

    monkeypatch.setattr(scores, "kid", wrong)
    with pytest.raises(DataError, match="got others"):
        run_experiment(config, None, Watcher())
    assert caplog.text == ""  # it is told once
