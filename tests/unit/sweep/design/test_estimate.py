"""The time that a sweep would take: what trials share counts once."""

from pathlib import Path
from typing import Any

import pytest
from trial_runs import begun

from pipeline.clients.rounds import StepCosts
from pipeline.config.load import load_config
from pipeline.config.tracking import TrackingConfig
from pipeline.experiment.estimate import START_S, adaptation_s, pretraining_s
from sweeps.cli import plan_json
from sweeps.design.config import SweepConfig
from sweeps.design.points import Trial, trial_of, trials
from sweeps.design.trial_plan import TrialPlan, sweep_seconds
from sweeps.execution.search import optuna_search
from sweeps.execution.study import Study

COSTS = StepCosts(train_s=1.0, look_s=1e-3)


def test_a_pretraining_that_trials_share_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeps.design.trial_plan.measure", lambda config: COSTS)

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


def test_what_a_search_draws_shares_its_pretraining(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sweeps.design.trial_plan.measure", lambda config: COSTS)
    rate = {"min": 1e-3, "max": 1.0, "log": True}
    settings, axes = {"resources.pool": "local"}, {"adapt.lr": rate}
    sweep = SweepConfig("a", "smoke", settings, axes, search="optuna", num_trials=5)
    tracking = TrackingConfig(enabled=False, root=str(tmp_path))
    study = Study.of(sweep, tracking)

    def seconds(num_drawn: int) -> float:
        told = plan_json(sweep, study, {"CPU": 1.0})
        assert (told["num_trials"], told["num_to_run"]) == (5, 5 - num_drawn)
        return told["estimate_s"]

    config = load_config("smoke", [])
    own = START_S + adaptation_s(config, COSTS)
    assert seconds(0) == pytest.approx(pretraining_s(config, COSTS) + 5 * own)
    study.folder.mkdir(parents=True)
    search: Any = optuna_search(sweep, study, [])
    begun(study, trial_of(sweep, search.suggest("a")).trial_id, tracking, {sweep.metric: 1.0})
    search.on_trial_complete("a", {sweep.metric: 1.0})
    assert seconds(1) == pytest.approx(4 * own)


def test_alternate_phases_can_be_estimated() -> None:
    words = ("method=shared_rep", "method.phases=alternate", "federation.tau=4")
    trial = Trial("a", load_config("smoke", words), words, {})
    assert sweep_seconds([(trial, TrialPlan(None))], 1) > START_S
