"""Finished runs by their names, and the settings under which a new client joins one."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.config.build import flattened
from pipeline.config.effect import check_effect, check_mean, typed_keys
from pipeline.config.load import load_config
from pipeline.config.safe_yaml import write_value
from pipeline.config.schema import Config
from pipeline.inference.saved_run import SavedRun
from pipeline.runs.layout import MODEL
from pipeline.runs.model_files import CONFIG
from pipeline.runs.record import find_run
from spire_core.errors import ConfigError, RunError

OF_RUNS = {  # settings of `adapt` that no client which arrives reads
    "adapt.tune_epochs": "it is about clients of pre-training",
    "adapt.group_size": "it is about new clients of a run, which are fitted together",
}


def open_run(run: str, overrides: Sequence[str] = ()) -> SavedRun:
    """Return a finished run by its id, name or folder; `last` is the newest.

    `overrides`: those of tracking say where runs lie; others are not looked at. Raises RunError if
    there is no such run, or if it is not complete.
    """
    where = [word for word in overrides if word.startswith("tracking.")]
    run_dir = find_run(run, load_config(None, where).tracking, is_finished=True)
    if not (run_dir / MODEL / CONFIG).is_file():
        raise RunError(
            f"expected a finished run, got {run}, which has no model yet: spire resume {run} first"
        )
    return SavedRun.load(run_dir)


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

    The label of the run's noise key is not among them. ConfigError if a setting is wrong, or has no
    effect.
    """
    config = run.config
    groups = {"adapt": asdict(config.adapt), "privacy": {"adapt": asdict(config.privacy.adapt)}}
    groups["adapt"] |= {"tune_epochs": 0}  # of clients of pre-training: see OF_RUNS
    # On these some of them depend.
    groups |= {"method": asdict(config.method)}
    groups |= {"federation": {"num_rounds": config.federation.num_rounds}}
    groups |= {"client": {"emb_first_steps": config.client.emb_first_steps}}
    groups |= {"model": {key: getattr(config.model, key) for key in ("backbone", "set_encoder")}}
    stored = [f"{key}={write_value(value)}" for key, value in flattened(groups).items()]
    config = load_config(None, [*stored, *overrides])
    check_effect(config, overrides)
    check_mean(config)
    for key in typed_keys(config, overrides):
        if key in OF_RUNS:
            raise ConfigError(
                f"expected settings of a client that arrives, got {key}: {OF_RUNS[key]}, so leave "
                "it out"
            )
    return config
