"""Pre-training is scored between rounds, and no evaluation is lost or made twice."""

from pathlib import Path

import pytest
from small_runs import small

from pipeline.checkpoint.evaluation_store import load_evaluations, save_evaluation
from pipeline.config.schema import Config
from pipeline.evaluation.scores import Evaluation
from pipeline.experiment import pretraining
from pipeline.experiment.run import resume_experiment, run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import Driver
from pipeline.federation.rounds import RoundStats
from pipeline.results.result import Result

EVALUATED = [0, 4, 6]


class Witness(Watcher):
    """Keeps what it is told in order: rounds done, and evaluations by the round they are of."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def after_round(self, stats: RoundStats, driver: Driver) -> None:
        self.told.append(("round", stats.round_idx + 1))

    def evaluated(self, evaluation: Evaluation, floor: float) -> None:
        self.told.append(("evaluation", evaluation.round_idx))


def told_of(result: Result) -> list[tuple[int, dict[str, float]]]:
    return [(one.round_idx, one.metrics()) for one in result.pretraining.evaluations]


@pytest.fixture
def config(mnist_root: Path, tmp_path: Path) -> Config:
    words = ["federation.num_rounds=6", "federation.cohort_size=2", "federation.tau=1"]
    words += ["tracking.checkpoint_every=4", "eval.every=4", "federation.num_new_clients=1"]
    return small(mnist_root, tmp_path, *words, "adapt.num_images=8")


def test_an_evaluation_is_over_before_the_next_round_and_an_interrupted_one_is_made_again(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = Witness()
    result = run_experiment(config, None, witness)
    expected = [("round", done) for done in range(1, 7)]
    for position, done in ((0, 0), (5, 4), (8, 6)):
        expected.insert(position, ("evaluation", done))
    assert witness.told == expected
    assert [len(e.drawn) for e in result.pretraining.evaluations] == [0, 0, 2]  # the last one's
    assert witness.run_dir is not None
    stored = [e.drawn[0] for e in load_evaluations(witness.run_dir, 99)]
    last = result.pretraining.evaluations[-1].drawn[0].features
    assert [len(one.features) for one in stored] == [0, 0, len(last)]  # read again by a resume
    assert all(len(one.images) for one in stored)  # and these where the pre-training is reused

    saved = list[int]()

    def interrupted(run_dir: Path, made: Evaluation) -> None:
        saved.append(made.round_idx)
        if saved in ([0, 4], [0, 4, 4, 6]):  # between rounds, and after the last of them
            raise KeyboardInterrupt
        save_evaluation(run_dir, made)

    monkeypatch.setattr(pretraining, "save_evaluation", interrupted)
    watcher = Watcher()
    with pytest.raises(KeyboardInterrupt):
        run_experiment(config, None, watcher)
    assert watcher.run_dir is not None
    with pytest.raises(KeyboardInterrupt):
        resume_experiment(watcher.run_dir, config, Watcher())
    again = resume_experiment(watcher.run_dir, config, Watcher())
    assert saved == [0, 4, 4, 6, 6]
    assert told_of(again) == told_of(result)
    assert [round_idx for round_idx, _ in told_of(again)] == EVALUATED
