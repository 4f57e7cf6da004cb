"""Settings of a sweep that have no effect in any of its trials, or a wrong one in one, refused."""

from collections.abc import Sequence

from pipeline.config.effect import check_beginning, typed_keys, without_effect
from pipeline.config.equivalence import reads
from spire_core.errors import ConfigError
from sweeps.design.points import Trial


def check_effects(trials: Sequence[Trial]) -> None:
    """Raise ConfigError for a setting that has no effect in any trial which has it.

    One that counts in some of them, such as the noise of an axis of budgets that ends with none, is
    no mistake. ConfigError as `check_beginning` says of any trial, too.
    """
    faults, counting = dict[str, str](), set[str]()
    for trial in trials:
        idle = without_effect(trial.config, trial.overrides)
        faults |= idle
        method, typed = trial.config.method.record, typed_keys(trial.config, trial.overrides)
        counting |= {key for key in typed if key not in idle and reads(method, key)}
    for key, fault in faults.items():
        if key not in counting:
            raise ConfigError(fault)
    for trial in trials:
        check_beginning(trial.config)
