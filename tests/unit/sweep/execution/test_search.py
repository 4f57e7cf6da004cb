"""A search that goes on: its storage has each draw, and lost ones run again."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from trial_runs import begun

from pipeline.config.tracking import TrackingConfig
from sweeps.design.config import SweepConfig
from sweeps.design.points import TuneParams, trial_of
from sweeps.execution.search import optuna_search, read_search
from sweeps.execution.study import Study

METRIC = "final/adapt_kid_after"
AXES = {
    "adapt.lr": {"min": 1e-3, "max": 1.0, "log": True},
    "adapt.epochs": {"min": 1, "max": 9, "integer": True},
    "method": ["spire", "fedavg_ft"],
}


@pytest.fixture
def tracking(tmp_path: Path) -> TrackingConfig:
    return TrackingConfig(enabled=False, root=str(tmp_path))


def test_a_search_goes_on_with_what_was_lost(tracking: TrackingConfig) -> None:
    sweep = SweepConfig("study", "smoke", axes=AXES, search="optuna", num_trials=5)
    study = Study.of(sweep, tracking)
    study.folder.mkdir(parents=True)
    assert read_search(sweep, study).num_undrawn == 5

    first: Any = optuna_search(sweep, study, [])
    drawn = {name: first.suggest(name) for name in ("told", "killed", "ended", "failed")}
    ids = {name: trial_of(sweep, params).trial_id for name, params in drawn.items()}
    begun(study, ids["told"], tracking, {METRIC: 1.5})
    first.on_trial_complete("told", {METRIC: 1.5})
    begun(study, ids["killed"], tracking)
    begun(study, ids["ended"], tracking, {METRIC: 0.5})  # its process was killed before it said so
    study.fail(ids["failed"], "expected x, got y: z")
    first.on_trial_complete("failed", {})

    progress = read_search(sweep, study)
    assert (len(progress.trials), progress.num_undrawn) == (4, 1)
    assert [trial.trial_id for trial in progress.left()] == [ids["killed"]]

    second: Any = optuna_search(sweep, study, progress.left())
    assert read_search(sweep, study).num_trials == 5  # killed again, before anything has begun
    second = optuna_search(sweep, study, read_search(sweep, study).left())
    assert second.suggest("again") == drawn["killed"]
    begun(study, ids["killed"], tracking, {METRIC: 2.5})
    second.on_trial_complete("again", {METRIC: 2.5})
    new: TuneParams = second.suggest("new")
    assert new not in drawn.values()
    begun(study, trial_of(sweep, new).trial_id, tracking, {METRIC: 3.5})
    second.on_trial_complete("new", {METRIC: 3.5})

    progress = read_search(sweep, study)
    assert (progress.num_trials, progress.num_undrawn, progress.left()) == (5, 0, [])
    stored = optuna.load_study(study_name="spire", storage=f"sqlite:///{study.folder}/search.db")
    states = [trial.state.name for trial in stored.get_trials()]
    assert states == ["COMPLETE", "FAIL", "COMPLETE", "PRUNED", "COMPLETE", "COMPLETE"]
    assert sorted(t.value for t in stored.get_trials() if t.value) == [0.5, 1.5, 2.5, 3.5]


def test_equal_draws_count_each(tracking: TrackingConfig) -> None:
    """Or a search over few values would never end."""
    sweep = SweepConfig("a", "smoke", axes={"seed_of": [{}]}, search="random", num_trials=3)
    study = Study.of(sweep, tracking)
    study.folder.mkdir(parents=True)
    search: Any = optuna_search(sweep, study, [])
    params = [search.suggest(str(i)) for i in range(2)]
    begun(study, trial_of(sweep, params[0]).trial_id, tracking, {METRIC: 1.0})
    for i in range(2):
        search.on_trial_complete(str(i), {METRIC: 1.0})
    progress = read_search(sweep, study)
    assert (len(progress.trials), progress.num_undrawn) == (1, 1)
