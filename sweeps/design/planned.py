"""The runs of a sweep that its primary comparisons are of, known before any of them begins."""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.config.build import known_keys
from pipeline.config.schema import Config
from pipeline.results.params import default_params, params_of
from sweeps.design.config import SweepConfig
from sweeps.design.points import points_apart, trials
from sweeps.primary import TASK, Primary, Run

TUNING = "adapt.tune_epochs"


def compared_configs(sweep: SweepConfig, compared: Sequence[Primary]) -> list[Config]:
    """Return a configuration for each task, method and side of these comparisons, on one seed.

    Equivalent ones are one. ConfigError if a trial's configuration is wrong.
    """
    keys = {"method.name", TUNING, *(key for key in known_keys(Config) if key.startswith(TASK))}
    keys |= {key for one in compared for side in one.sides for key in side.where}
    keys |= {key.removesuffix(".name") for key in keys}  # `method: spire` is the same
    points = [*points_apart(sweep, keys)]
    return [one.config for one in trials(replace(sweep, seeds=sweep.seeds[:1]), points)]


def run_of(config: Config) -> Run:
    """Return the method and all params of a run with a configuration."""
    own = {key: str(value) for key, value in params_of(config).items()}
    return config.method.name, {**default_params(), **own}


def planned_runs(sweep: SweepConfig, compared: Sequence[Primary]) -> list[Run]:
    """Return the runs of a grid that these comparisons tell apart; none of a search.

    ConfigError as `compared_configs`.
    """
    if sweep.search != "grid" or not compared:
        return []
    return [run_of(config) for config in compared_configs(sweep, compared)]
