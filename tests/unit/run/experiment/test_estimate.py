"""The time that a run would take: images are counted by hand, and a step is really timed."""

import math

import pytest

from pipeline.clients.rounds import StepCosts
from pipeline.config.load import load_config
from pipeline.experiment.estimate import (
    adaptation_s,
    kind_of,
    measure,
    pretraining_s,
)

COSTS = StepCosts(train_s=1.0, look_s=1e-3)
ROUNDS = ("federation.num_rounds=10", "federation.tau=2", "client.batch_size=5", "eval.every=4")
SMALL, SMALL_LOSS = "partition.client_size=40", 0.01  # 30 to train on, and 10 that are held out
LOSS = 0.128  # of as many held-out images as are looked at
DRAWS = ("eval.num_images=100", "diffusion.sample_steps=10")  # 1 s for one client
ONE_EPOCH = ("federation.tau=null", "federation.local_epochs=1")
SIZES = ("federation.num_clients=6", "federation.cohort_size=3", "federation.num_new_clients=2")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        # Evaluations after rounds 0, 4, 8 and 10, with three losses of each client, and controls.
        ((), 300.0 + 5 * 6 + 4 * 6 * 3 * LOSS),
        (("eval.every=0",), 300.0 + 3 * 6 + 2 * 6 * 3 * LOSS),
        (("eval.num_clients=2",), 300.0 + 5 * 2 + 4 * 2 * 3 * LOSS),
        (("method=fedavg",), 300.0 + 4 * 4 + 6 + 4 * 6 * LOSS),  # a few draws stand for everybody
        (("method=local",), 0.0),
        ((*ONE_EPOCH, SMALL), 10 * 3 * 30.0 + 5 * 6 + 4 * 6 * 3 * SMALL_LOSS),
    ],
)
def test_rounds_and_their_evaluations_are_counted(words: tuple[str, ...], expected: float) -> None:
    config = load_config(None, [*ROUNDS, *DRAWS, *SIZES, *words])
    assert pretraining_s(config, COSTS) == pytest.approx(expected)


def test_epochs_of_new_clients_are_counted() -> None:
    words = ("adapt.epochs=7", "adapt.eval_every=3", "adapt.num_images=8")
    config = load_config(None, [*DRAWS, *SIZES, *words])
    losses = (5 + 2 * 16) * LOSS  # of each drawing, and the bits before and after
    assert adaptation_s(config, COSTS) == pytest.approx(2 * (7 * 8 + 4 + 1 + losses))  # and control
    draws = load_config(None, [*DRAWS, *SIZES, *words, "adapt.draws=null"])  # batches of 16
    assert adaptation_s(draws, COSTS) == pytest.approx(2 * (7 * 16 + 5 + losses))
    nobody_trains = load_config(None, [*DRAWS, *SIZES, *words, "method=fedavg"])
    once = 1 + (1 + 2 * 16) * LOSS
    assert adaptation_s(nobody_trains, COSTS) == pytest.approx(2 * once)
    tuned = (*words, SMALL, "adapt.tune_epochs=2", "method=fedavg_ft")
    config = load_config(None, [*DRAWS, *SIZES, *tuned])
    expected = 2 * (7 * 8 + 4 + (4 + 2 * 16) * SMALL_LOSS) + 6 * (2 * 30 + 1 + SMALL_LOSS)
    assert adaptation_s(config, COSTS) == pytest.approx(expected)
    private = ["adapt.num_images=8", "privacy.adapt.epsilon=4", "adapt.eval_every=3"]
    config = load_config(
        None, [*DRAWS, *SIZES, *private, "privacy.adapt.steps=7", "privacy.adapt.draws=5"]
    )
    assert adaptation_s(config, COSTS) == pytest.approx(2 * (7 * 5 * 8 + 5 + losses))


def test_steps_and_looks_are_timed() -> None:
    config = load_config("smoke", [])
    costs = measure(*kind_of(config, has_gpu=False))
    assert all(0 < seconds < math.inf for seconds in (costs.look_s, costs.train_s))
    assert costs.num_images == 2 * 16  # a group's whole batch
