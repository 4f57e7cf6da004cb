"""Settings of a sweep that have no effect in any of its trials."""

from collections.abc import Sequence

from pipeline.config.load import flattened, read_words
from pipeline.config.meaning import determines, reads, say_without_effect, without_effect
from spire_core.config.privacy import refuse_label
from sweeps.design.points import Trial


def check_effects(trials: Sequence[Trial]) -> None:
    """Name each setting that has no effect in any trial which has it.

    One that counts in some of them, such as the noise of an axis of budgets that ends with none, is
    no mistake. ConfigError for one of privacy, and for the label of a noise key in its place.
    """
    faults, counting = dict[str, str](), set[str]()
    for trial in trials:
        refuse_label(trial.config.privacy)
        idle, method = without_effect(trial.config, trial.overrides), trial.config.method.record
        faults |= {key: fault for key, fault in idle.items() if determines(key)}
        typed = flattened(read_words(trial.overrides))
        counting |= {key for key in typed if key not in idle and reads(method, key)}
    say_without_effect({key: fault for key, fault in faults.items() if key not in counting})
