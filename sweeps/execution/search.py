"""The draws of a search: Optuna keeps them in the sweep's folder, and Ray Tune asks it for more.

A value from a list is drawn by its position.
"""

import importlib.util
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from spire_core.config.checks import require
from spire_core.rng import derive_seed
from sweeps.design.config import SweepConfig
from sweeps.design.points import Trial, TuneParams, trial_of
from sweeps.execution.study import Progress, Study, progress_of, score_of

DATABASE, STUDY_NAME = "search.db", "spire"


def read_search(sweep: SweepConfig, study: Study) -> Progress:
    """Return how far a search is; draws that were begun and lost are among the unfinished."""
    file = study.folder / DATABASE
    drawn = _optuna_study(sweep, _storage(study)).get_trials() if file.is_file() else []
    found = [(trial_of(sweep, params), one.state.name) for one in drawn if (params := _params(one))]
    progress = progress_of(sweep, study, [*{trial.trial_id: trial for trial, _ in found}.values()])
    # Equal draws count each; one that was lost counts with its second try.
    ended = Counter(trial.trial_id for trial, state in found if state in ("COMPLETE", "PRUNED"))
    num_drawn = sum(
        1 if status == "unfinished" else max(1, ended[trial_id])
        for trial_id, status in progress.statuses.items()
    )
    return replace(progress, num_undrawn=max(0, (sweep.num_trials or 0) - num_drawn))


def optuna_search(sweep: SweepConfig, study: Study, again: Sequence[Trial]) -> Searcher:
    """Return the search over the axes, which begins with the trials to run again.

    Draws whose process is gone are marked: failed, unless their trial has finished.
    """
    storage = _storage(study)
    from optuna.samplers import RandomSampler, TPESampler
    from optuna.trial import TrialState
    from ray.tune.search.optuna import OptunaSearch

    optuna_study, points, waiting = _optuna_study(sweep, storage), dict[str, TuneParams](), set()
    drawn = optuna_study.get_trials()
    for one in filter(_params, drawn):
        trial_id = trial_of(sweep, _params(one)).trial_id
        points[trial_id] = _params(one)
        if one.state == TrialState.WAITING:
            waiting.add(trial_id)
        elif one.state == TrialState.RUNNING:
            result = study.result(trial_id)
            score = None if result is None else score_of(sweep, result)
            state = TrialState.FAIL if score is None else TrialState.COMPLETE
            optuna_study.tell(one.number, score, state)
    seed = derive_seed(sweep.seeds[0], "optuna", len(drawn)) % 2**32  # as numpy takes it
    return OptunaSearch(
        OptunaSearch.convert_search_space({n: _domain(a) for n, a in sweep.axes.items()}),
        metric=sweep.metric,
        mode=sweep.mode,
        points_to_evaluate=[points[t.trial_id] for t in again if t.trial_id not in waiting] or None,
        sampler=TPESampler(seed=seed) if sweep.search == "optuna" else RandomSampler(seed),
        study_name=STUDY_NAME,
        storage=storage,
    )


def _params(drawn: Any) -> TuneParams:
    """Return the parameters of a draw, or those with which it will be tried again."""
    return drawn.params or drawn.system_attrs.get("fixed_params", {})


def _storage(study: Study) -> Any:
    has_optuna = importlib.util.find_spec("optuna") is not None
    expected, advice = "the package optuna for a search", "pip install 'optuna>=4,<6'"
    require(has_optuna, expected, "none", advice)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.storages.RDBStorage(f"sqlite:///{study.folder / DATABASE}")


def _optuna_study(sweep: SweepConfig, storage: Any) -> Any:
    import optuna

    direction = "minimize" if sweep.mode == "min" else "maximize"
    return optuna.create_study(
        storage=storage, study_name=STUDY_NAME, direction=direction, load_if_exists=True
    )


def _domain(axis: Any) -> Any:
    if isinstance(axis, list):
        return tune.choice(list(range(len(axis))))
    low, high, is_log = axis["min"], axis["max"], axis.get("log", False)
    if axis.get("integer"):
        return tune.lograndint(low, high + 1) if is_log else tune.randint(low, high + 1)
    return tune.loguniform(low, high) if is_log else tune.uniform(low, high)
