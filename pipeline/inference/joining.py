"""The settings under which a new client joins a finished run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.config.load import flattened, overridden, read_words
from pipeline.config.meaning import say_without_effect, without_effect
from pipeline.config.schema import Config
from pipeline.inference.saved_run import SavedRun
from spire_core.config.model import ModelConfig
from spire_core.config.privacy import PrivacyConfig

OF_RUNS = ("adapt.tune_epochs", "adapt.group_size")  # which no client that arrives reads


def data_root(run: SavedRun, config: Config) -> str | None:
    """Return where data sets are: as a new client's settings say, or as the run had it.

    None, for the usual place, if they have moved.
    """
    if config.data.root is not None:
        return config.data.root
    began = run.config.data.root
    return began if began is not None and Path(began).is_dir() else None


def joining_config(run: SavedRun, overrides: Sequence[str]) -> Config:
    """Return the settings of a new client: the run's own of `adapt` and privacy, and overrides.

    The label of the run's noise key is not among them. ConfigError if a setting is wrong.
    """
    began = run.config
    base = replace(
        Config(),
        method=began.method,
        model=replace(ModelConfig(), backbone=began.model.backbone),
        adapt=replace(began.adapt, tune_epochs=0),
        privacy=PrivacyConfig(adapt=began.privacy.adapt),
    )
    config = overridden(base, overrides)
    faults, typed = without_effect(config, overrides), flattened(read_words(overrides))
    faults |= {key: f"{key} is not of a client that arrives" for key in OF_RUNS if key in typed}
    say_without_effect(faults)
    return config
