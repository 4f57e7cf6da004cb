"""Primary comparisons of which no trial could be a part, refused in a sentence."""

from collections.abc import Sequence

from pipeline.config.meaning import switched_off
from pipeline.config.schema import Config
from spire_core.errors import ConfigError
from sweeps.design.config import SweepConfig
from sweeps.design.planned import TUNING, compared_configs, run_of
from sweeps.primary import KIDS, TUNED_KID, Primary, Side, place_of, primaries


def check_compared(sweep: SweepConfig, written: SweepConfig | None) -> None:
    """Raise ConfigError for a comparison with a method, or at a place, that no trial has.

    Trials are also those of the sweep as its file is `written`, of which a command may run a part.
    A sweep with a wrong trial is left to the error of that trial.
    """
    compared = primaries(sweep.primary)
    configs = _configs(sweep, compared) if compared else []
    if configs and written is not None:
        configs += _configs(written, compared)
    runs = [run_of(config) for config in configs]
    methods = list(dict.fromkeys(method for method, _ in runs))
    for one in compared if configs else ():
        own = [
            [config for config, run in zip(configs, runs, strict=True) if side.fits(*run)]
            for side in one.sides
        ]
        for side, meant in zip(one.sides, own, strict=True):
            _check(one, side, meant, methods)
        if any(config in own[1] for config in own[0]):
            raise ConfigError(
                "expected two sides of a primary comparison that share no trials, got "
                f"{one.words}: name in against_where every setting in which they differ"
            )


def _configs(sweep: SweepConfig, compared: Sequence[Primary]) -> list[Config]:
    """Return the configurations that these comparisons tell apart; none if a trial is wrong."""
    try:
        return compared_configs(sweep, compared)
    except ConfigError:
        return []


def _check(one: Primary, side: Side, meant: Sequence[Config], methods: Sequence[str]) -> None:
    """Raise ConfigError for a side of which no trial could be, or of which some cannot be meant."""
    method = side.method
    if method not in methods:
        raise ConfigError(
            f"expected primary comparisons of the sweep's methods, got {method!r}: choose out of "
            f"{', '.join(methods)}, or add it to the sweep"
        )
    if not meant:
        raise ConfigError(
            f"expected trials of {method} with {place_of(side.where)} for a primary comparison, "
            "got none: change its where, or add them to the sweep"
        )
    if one.measure == TUNED_KID and all(config.adapt.tune_epochs == 0 for config in meant):
        raise ConfigError(
            f"expected pre-training clients of {method} that train on ({TUNING} above 0) for a "
            f"primary comparison of {one.measure}, got none: set it, or compare another measure"
        )
    if one.measure in KIDS and any(config.model.text != "none" for config in meant):
        raise ConfigError(
            f"expected a primary comparison without KID where model.text is set, got {one.measure}:"
            " images are drawn for the reference's captions, so compare distance or prompts read"
        )
    for key in side.counting:
        off = filter(None, (switched_off(key, config) for config in meant))
        if side.where[key] is not None and (needed := next(off, None)) is not None:
            raise ConfigError(
                f"expected {needed} in every trial of {method} with {place_of(side.where)} "
                f"for a primary comparison, got some in which {key} has no effect: name it in "
                f"where too, or leave out {key}"
            )
