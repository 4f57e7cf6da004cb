"""An interrupted run goes on to the same result; so does one that takes over pre-training."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoint import checkpoints, kept_rounds
from pipeline.config import Config, load_config, overridden
from pipeline.driver import RoundStats
from pipeline.experiment import Result, resume_experiment, run_experiment
from pipeline.outbox import read_points
from pipeline.progress import Quiet
from pipeline.run_files import load_start
from spire_core.errors import RunError

NUM_ROUNDS = 6
TIMED = ("time/", "memory/")


class Crash(Exception):
    """What a test ends a run with."""


class Crasher(Quiet):
    """Ends a run after some round, or when pre-training is over."""

    def __init__(self, after_round: int) -> None:
        self.after_round, self.run_dir = after_round, Path()

    def started(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def round_done(self, stats: RoundStats, num_rounds: int) -> None:
        if stats.round_idx + 1 == self.after_round:
            raise Crash

    def pretrained(self, run_dir: Path) -> None:
        if self.after_round > NUM_ROUNDS:
            raise Crash


def config_for(mnist_root: Path, root: Path, *overrides: str) -> Config:
    return load_config(
        "smoke",
        [
            f"data.root={mnist_root}",
            f"tracking.root={root}",
            "tracking.enabled=false",
            "tracking.checkpoint_every=2",
            "resources.pool=local",
            f"federation.num_rounds={NUM_ROUNDS}",
            "federation.cohort_size=2",
            "model.width=8",
            "adapt.epochs=2",
            "eval.num_images=8",
            "eval.every=3",
            "eval.num_loss_images=8",
            "eval.num_clients=2",
            "diffusion.sample_steps=2",
            *overrides,
        ],
    )


def comparable(result: Result) -> dict[str, Any]:
    """What a result says, without what depends on the clock."""
    metrics = {k: v for k, v in result.metrics.items() if "duration" not in k}
    evaluations = [e.metrics() for e in result.evaluations]
    return {"state": result.state_fingerprint, "metrics": metrics, "evaluations": evaluations}


def points(run_dir: Path) -> list[tuple[int, dict[str, float]]]:
    said = read_points(run_dir)
    return [
        (s, {k: v for k, v in m.items() if not k.startswith(TIMED) and "duration" not in k})
        for s, m in said
    ]


@pytest.fixture(scope="module", params=["spire", "shared_rep"])
def whole(
    request: pytest.FixtureRequest, mnist_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, Result]:
    root = tmp_path_factory.mktemp("whole")
    method = [f"method={request.param}", "method.share_until=0.4", "server.optimizer=fedadam"]
    chances = ["federation.drop_rate=0.4", "federation.straggler_rate=0.5"]
    config = config_for(mnist_root, root, *method, "server.lr=0.01", *chances)
    return config, run_experiment(config, "smoke", Quiet())


@pytest.mark.parametrize("after", [1, 2, 3, 4, 5, 6, 7])
def test_a_run_resumed_after_any_round_ends_in_the_same_state(
    after: int, whole: tuple[Config, Result]
) -> None:
    config, expected = whole
    crasher = Crasher(after)
    with pytest.raises(Crash):
        run_experiment(config, "smoke", crasher)
    assert kept_rounds(crasher.run_dir) == tuple(r for r in (2, 4, 6) if r <= after)[-2:]
    stored, preset = load_start(crasher.run_dir)
    assert (stored.fingerprint, preset) == (config.fingerprint, "smoke")
    result = resume_experiment(crasher.run_dir, stored, Quiet())
    assert comparable(result) == comparable(expected)
    assert points(crasher.run_dir) == points(expected.run_dir)


def test_two_crashes_and_a_damaged_checkpoint_change_nothing(
    whole: tuple[Config, Result],
) -> None:
    config, expected = whole
    first = Crasher(5)
    with pytest.raises(Crash):
        run_experiment(config, "smoke", first)
    newest = checkpoints(first.run_dir)[-1] / "server.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.raises(Crash):
        resume_experiment(first.run_dir, config, Crasher(3))
    assert comparable(resume_experiment(first.run_dir, config, Quiet())) == comparable(expected)


def test_pretraining_is_taken_over_by_a_run_that_shares_it(
    whole: tuple[Config, Result],
) -> None:
    config, leader = whole
    follower = overridden(config, ["adapt.epochs=3"])
    alone = run_experiment(follower, None, Quiet())
    crasher = Crasher(1)  # a round would be seen: there is none
    taken = run_experiment(follower, None, crasher, pretrained=leader.run_dir)
    assert comparable(taken) == comparable(alone)
    assert points(taken.run_dir) == points(alone.run_dir)
    other = overridden(follower, ["federation.tau=1"])
    with pytest.raises(RunError, match="these settings"):
        run_experiment(other, None, Quiet(), pretrained=leader.run_dir)


def test_unfinished_pretraining_is_not_taken_over(mnist_root: Path, tmp_path: Path) -> None:
    config, crasher = config_for(mnist_root, tmp_path), Crasher(5)
    with pytest.raises(Crash):
        run_experiment(config, None, crasher)
    with pytest.raises(RunError, match="got 4"):
        run_experiment(config, None, Quiet(), pretrained=crasher.run_dir)
