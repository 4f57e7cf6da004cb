"""The time that a sweep would take: images are counted by hand, and a step is really timed."""

import math
from pathlib import Path

import pytest

from pipeline.config.load import load_config
from sweeps.design.config import SweepConfig
from sweeps.design.estimate import (
    START_S,
    Costs,
    adaptation_s,
    measure,
    pretraining_s,
    sweep_seconds,
)
from sweeps.design.points import Trial, point_of, probes, trials
from sweeps.design.trial_plan import TrialPlan
from sweeps.execution.ledger import Ledger, TrialRecord
from sweeps.outcome_text import duration, plan_json

COSTS = Costs(train_s=1.0, look_s=1e-3)
ROUNDS = ("federation.num_rounds=10", "federation.tau=2", "client.batch_size=5", "eval.every=4")
DRAWS = ("eval.num_images=100", "diffusion.sample_steps=10")  # 1 s for one client
ONE_EPOCH = ("federation.tau=null", "federation.local_epochs=1")
SIZES = ("federation.num_clients=6", "federation.cohort_size=3", "federation.num_new_clients=2")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), 300.0 + 4 * 6),  # evaluations after rounds 0, 4, 8 and 10
        (("eval.every=0",), 300.0 + 2 * 6),
        (("eval.num_clients=2",), 300.0 + 4 * 2),
        (("method=fedavg",), 300.0 + 4 * 4),  # a few draws stand for everybody
        (("method=local",), 0.0),
        ((*ONE_EPOCH, "partition.client_size=40"), 10 * 3 * 30.0 + 4 * 6),
    ],
)
def test_rounds_and_their_evaluations_are_counted(words: tuple[str, ...], expected: float) -> None:
    config = load_config(None, [*ROUNDS, *DRAWS, *SIZES, *words])
    assert pretraining_s(config, COSTS) == pytest.approx(expected)


def test_epochs_of_new_clients_are_counted() -> None:
    words = ("adapt.epochs=7", "adapt.eval_every=3", "adapt.num_images=8")
    config = load_config(None, [*DRAWS, *SIZES, *words])
    assert adaptation_s(config, COSTS) == pytest.approx(2 * (7 * 8 + 4))
    nobody_trains = load_config(None, [*DRAWS, *SIZES, *words, "method=fedavg"])
    assert adaptation_s(nobody_trains, COSTS) == pytest.approx(2 * 1)
    tuned = (*words, "partition.client_size=40", "adapt.tune_epochs=2", "method=fedavg_ft")
    config = load_config(None, [*DRAWS, *SIZES, *tuned])
    assert adaptation_s(config, COSTS) == pytest.approx(2 * (7 * 8 + 4) + 6 * (2 * 30 + 1))
    config = load_config(None, [*DRAWS, *SIZES, *tuned, "method=spire"])  # has embeddings
    assert adaptation_s(config, COSTS) == pytest.approx(2 * (7 * 8 + 4))


def test_private_steps_and_their_draws_are_counted() -> None:
    words = ["adapt.eval_every=3", "adapt.num_images=8", "privacy.adapt.epsilon=4"]
    words += ["privacy.adapt.steps=7", "privacy.adapt.draws=5"]
    config = load_config(None, [*DRAWS, *SIZES, *words])
    assert adaptation_s(config, COSTS) == pytest.approx(2 * (7 * 5 * 8 + 4))
    config = load_config(None, [*DRAWS, *SIZES, *words, "privacy.adapt.batch_size=4"])
    assert adaptation_s(config, COSTS) == pytest.approx(2 * (7 * 5 * 4 + 4))
    once = "privacy.adapt.mechanism=one_release"
    config = load_config(None, [*DRAWS, *SIZES, *words, once])
    assert adaptation_s(config, COSTS) == pytest.approx(2 * (7 * 5 * 8 + 2))


def test_a_pretraining_that_trials_share_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.design.estimate.measure", lambda config: COSTS)

    def trials_of(epochs: list[int]) -> list[Trial]:
        return trials(SweepConfig(name="a", preset="smoke", axes={"adapt.epochs": epochs}))

    def seconds(epochs: list[int], num_done: int = 0) -> float:
        found = trials_of(epochs)
        left = [(trial, TrialPlan(None)) for trial in found[num_done:]]
        return sweep_seconds(left, at_once=1, done=found[:num_done])

    configs = [trial.config for trial in trials_of([2, 3, 4])]
    first, *more = [adaptation_s(config, COSTS) for config in configs]
    one = START_S + pretraining_s(configs[0], COSTS) + first
    assert seconds([2]) == pytest.approx(one)
    assert seconds([2, 3, 4]) == pytest.approx(one + sum(START_S + s for s in more))
    assert seconds([3, 2], num_done=1) == pytest.approx(START_S + first)
    assert seconds([2], num_done=1) == 0


def test_what_a_search_draws_shares_its_pretraining(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sweeps.design.estimate.measure", lambda config: COSTS)
    rate = {"min": 1e-3, "max": 1.0, "log": True}
    settings, axes = {"resources.pool": "local"}, {"adapt.lr": rate}
    sweep = SweepConfig("a", "smoke", settings, axes, search="optuna", num_trials=5)
    ledger = Ledger(tmp_path)

    def seconds() -> float:
        told = plan_json(sweep, probes(sweep), {"CPU": 1.0}, ledger)
        assert (told["num_trials"], told["num_to_run"]) == (5, 5 - len(ledger.draws()))
        return told["estimate_s"]

    config = load_config("smoke", [])
    own = START_S + adaptation_s(config, COSTS)
    assert seconds() == pytest.approx(pretraining_s(config, COSTS) + 5 * own)
    ledger.add_draw({"adapt.lr": 0.01})
    [drawn] = trials(sweep, [point_of(sweep, {"adapt.lr": 0.01})])
    ledger.write(TrialRecord(drawn.trial_id, "finished"))
    assert seconds() == pytest.approx(4 * own)


def test_steps_and_looks_are_timed() -> None:
    costs = measure(load_config("smoke", []))
    assert 0 < costs.look_s < math.inf
    assert 0 < costs.train_s < math.inf


def test_alternate_phases_can_be_estimated() -> None:
    words = ("method=shared_rep", "method.phases=alternate", "federation.tau=4")
    trial = Trial(load_config("smoke", words), "smoke", words, {})
    assert sweep_seconds([(trial, TrialPlan(None))], 1) > START_S


@pytest.mark.parametrize(
    ("seconds", "text"), [(40, "40 s"), (150, "2.5 min"), (1800, "30 min"), (4e4, "11 h")]
)
def test_spans_are_told_in_their_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text
