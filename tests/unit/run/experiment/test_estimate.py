"""The time that a run would take: images are counted by hand, and a step is really timed."""

import math

import pytest

from pipeline.clients.rounds import StepCosts
from pipeline.config.load import load_config
from pipeline.experiment.estimate import (
    adaptation_s,
    measure,
    pretraining_s,
)

COSTS = StepCosts(train_s=1.0, look_s=1e-3)
ROUNDS = ("federation.num_rounds=10", "federation.tau=2", "client.batch_size=5", "eval.every=4")
DRAWS = ("eval.num_images=100", "diffusion.sample_steps=10")  # 1 s for one client
ONE_EPOCH = ("federation.tau=null", "federation.local_epochs=1")
SIZES = ("federation.num_clients=6", "federation.cohort_size=3", "federation.num_new_clients=2")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), 300.0 + 5 * 6),  # evaluations after rounds 0, 4, 8 and 10, and controls
        (("eval.every=0",), 300.0 + 3 * 6),
        (("eval.num_clients=2",), 300.0 + 5 * 2),
        (("method=fedavg",), 300.0 + 4 * 4 + 6),  # a few draws stand for everybody
        (("method=local",), 0.0),
        ((*ONE_EPOCH, "partition.client_size=40"), 10 * 3 * 30.0 + 5 * 6),
    ],
)
def test_rounds_and_their_evaluations_are_counted(words: tuple[str, ...], expected: float) -> None:
    config = load_config(None, [*ROUNDS, *DRAWS, *SIZES, *words])
    assert pretraining_s(config, COSTS) == pytest.approx(expected)


def test_epochs_of_new_clients_are_counted() -> None:
    words = ("adapt.epochs=7", "adapt.eval_every=3", "adapt.num_images=8")
    config = load_config(None, [*DRAWS, *SIZES, *words])
    assert adaptation_s(config, COSTS) == pytest.approx(2 * (7 * 8 + 4 + 1))  # a control draws, too
    draws = load_config(None, [*DRAWS, *SIZES, *words, "adapt.draws=null"])  # batches of 16
    assert adaptation_s(draws, COSTS) == pytest.approx(2 * (7 * 16 + 5))
    nobody_trains = load_config(None, [*DRAWS, *SIZES, *words, "method=fedavg"])
    assert adaptation_s(nobody_trains, COSTS) == pytest.approx(2 * 1)
    tuned = (*words, "partition.client_size=40", "adapt.tune_epochs=2", "method=fedavg_ft")
    config = load_config(None, [*DRAWS, *SIZES, *tuned])
    assert adaptation_s(config, COSTS) == pytest.approx(2 * (7 * 8 + 4) + 6 * (2 * 30 + 1))
    private = ["adapt.num_images=8", "privacy.adapt.epsilon=4", "adapt.eval_every=3"]
    config = load_config(
        None, [*DRAWS, *SIZES, *private, "privacy.adapt.steps=7", "privacy.adapt.draws=5"]
    )
    assert adaptation_s(config, COSTS) == pytest.approx(2 * (7 * 5 * 8 + 5))


def test_steps_and_looks_are_timed() -> None:
    costs = measure(load_config("smoke", []))
    assert 0 < costs.look_s < math.inf
    assert 0 < costs.train_s < math.inf
