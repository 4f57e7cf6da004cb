"""Primary comparisons of which no trial could be a part, refused in a sentence."""

from collections.abc import Collection, Mapping, Sequence

from pipeline.results.params import default_params, params_of
from spire_core.errors import ConfigError
from sweeps.design.config import SweepConfig
from sweeps.design.points import make_trial, points_apart
from sweeps.primary import TUNED_KID, Primary, Side, place_of, primaries

TUNING = "adapt.tune_epochs"
Run = tuple[str, Mapping[str, str]]  # the method and the params of a trial's run


def check_compared(sweep: SweepConfig, written: SweepConfig | None) -> None:
    """Raise ConfigError for a comparison with a method, or at a place, that no trial has.

    Trials are also those of the sweep as its file is `written`, of which a command may run a part.
    A sweep with a wrong trial is left to the error of that trial.
    """
    compared = primaries(sweep.primary)
    keys = {
        "method.name",
        TUNING,
        *(key for one in compared for side in one.sides for key in side.where),
    }
    keys |= {key.removesuffix(".name") for key in keys}  # `method: spire` is the same
    runs = _runs(sweep, keys) if compared else []
    if runs and written is not None:
        runs += _runs(written, keys)
    for one in compared if runs else ():
        for side in one.sides:
            _check(one, side, runs)
        _check_apart(one, runs)


def _check_apart(one: Primary, runs: Sequence[Run]) -> None:
    """Raise ConfigError for sides that share a run."""
    method, other = one.sides
    if any(method.fits(*run) and other.fits(*run) for run in runs):
        raise ConfigError(
            f"expected two sides of a primary comparison that share no trials, got {one.words}: "
            "name in against_where every setting in which they differ"
        )


def _runs(sweep: SweepConfig, keys: Collection[str]) -> list[Run]:
    """Return a run for each combination of values of these settings; none if a trial is wrong."""
    try:
        trials = [
            make_trial(sweep, point, sweep.seeds[0]).config for point in points_apart(sweep, keys)
        ]
    except ConfigError:
        return []
    own = ({key: str(value) for key, value in params_of(config).items()} for config in trials)
    return [
        (config.method.name, {**default_params(), **params})
        for config, params in zip(trials, own, strict=True)
    ]


def _check(one: Primary, side: Side, runs: Sequence[Run]) -> None:
    method = side.method
    methods = list(dict.fromkeys(own for own, _ in runs))
    if method not in methods:
        raise ConfigError(
            f"expected primary comparisons of the sweep's methods, got {method!r}: choose out of "
            f"{', '.join(methods)}, or add it to the sweep"
        )
    compared = [params for own, params in runs if side.fits(own, params)]
    if not compared:
        raise ConfigError(
            f"expected trials of {method} with {place_of(side.where)} for a primary comparison, "
            "got none: change its where, or add them to the sweep"
        )
    if one.measure == TUNED_KID and all(params[TUNING] == "0" for params in compared):
        raise ConfigError(
            f"expected pre-training clients of {method} that train on ({TUNING} above 0) for a "
            f"primary comparison of {one.measure}, got none: set it, or compare another measure"
        )
