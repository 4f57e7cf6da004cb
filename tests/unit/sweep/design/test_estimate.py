"""The time that a sweep would take: what trials share counts once."""

import pytest

from pipeline.clients.rounds import StepCosts
from pipeline.experiment.estimate import adaptation_s, pretraining_s
from sweeps.design.config import SweepConfig
from sweeps.design.points import Trial, trials
from sweeps.design.trial_plan import SWEEP_S, TRIAL_S, TrialPlan, estimate

COSTS = StepCosts(train_s=1.0, look_s=1e-3)


def test_a_pretraining_that_trials_share_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.experiment.estimate.measure", lambda config, device: COSTS)

    def trials_of(epochs: list[int]) -> list[Trial]:
        return trials(SweepConfig(name="a", preset="smoke", axes={"adapt.epochs": epochs}))

    def seconds(epochs: list[int], num_done: int = 0, at_once: int = 1) -> float:
        found = trials_of(epochs)
        left = [(trial, TrialPlan(None, 0.4)) for trial in found[num_done:]]
        return estimate(left, at_once, [{"CPU": 1.8}], found[:num_done]).seconds

    configs = [trial.config for trial in trials_of([2, 3, 4])]
    first, *more = [adaptation_s(config, COSTS) for config in configs]
    one = SWEEP_S + TRIAL_S + pretraining_s(configs[0], COSTS) + first
    assert seconds([2]) == pytest.approx(one)
    assert seconds([2, 3, 4]) == pytest.approx(one + sum(TRIAL_S + s for s in more))
    assert seconds([3, 2], num_done=1) == pytest.approx(SWEEP_S + TRIAL_S + first)
    others = SWEEP_S + sum(TRIAL_S + s / 0.9 for s in more)  # of 1.8 CPUs
    slower = SWEEP_S + TRIAL_S + (pretraining_s(configs[0], COSTS) + first) / 0.9
    assert seconds([2, 3, 4], at_once=2) == pytest.approx(max(slower, others))
