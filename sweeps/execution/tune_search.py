"""Optuna's search over a sweep's axes, as Ray Tune draws from it."""

import importlib.util
import logging
from typing import Any

from ray import tune
from ray.tune.search import Searcher

from spire_core.errors import ConfigError
from spire_core.rng import derive_seed
from sweeps.design.config import SweepConfig
from sweeps.execution.source import SearchHistory


def optuna_search(sweep: SweepConfig, history: SearchHistory) -> Searcher:
    """Return Optuna's search over the axes; a list is searched by the position in it.

    It learns from the evaluated draws of its history, and tries the unfinished ones first.
    ConfigError without the package optuna.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError(
            "expected the package optuna for search=optuna, got none: pip install 'optuna>=4,<6'"
        )
    from ray.tune.search.optuna import OptunaSearch

    logging.getLogger("optuna").setLevel(logging.WARNING)

    class Search(OptunaSearch):
        """Learns nothing from results without the metric, as of a method without rounds."""

        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            if result.get(sweep.metric) is not None:
                super().on_trial_result(trial_id, result)

    search = Search(
        OptunaSearch.convert_search_space({n: _domain(a) for n, a in sweep.axes.items()}),
        metric=sweep.metric,
        mode=sweep.mode,
        points_to_evaluate=[dict(params) for params in history.unfinished] or None,
        seed=derive_seed(sweep.seeds[0], "optuna", history.num_draws) % 2**32,  # as numpy takes it
    )
    for params, value in history.evaluated:
        search.add_evaluated_point(dict(params), value)
    return search


def _domain(axis: Any) -> Any:
    if isinstance(axis, list):
        return tune.choice(list(range(len(axis))))
    low, high, is_log = axis["min"], axis["max"], axis.get("log", False)
    if axis.get("integer"):
        return tune.lograndint(low, high + 1) if is_log else tune.randint(low, high + 1)
    return tune.loguniform(low, high) if is_log else tune.uniform(low, high)
