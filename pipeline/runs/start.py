"""The start of a run: `config.json` in its folder, from which it is resumed after a crash."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.config.data import DataConfig
from pipeline.config.load import config_from_dict, flattened, overridden, read_words
from pipeline.config.meaning import NUMBERS, fingerprint, say_without_effect, without_effect
from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig, tracking_root
from pipeline.files.damage import read_object, reading
from pipeline.files.json_files import write_json
from pipeline.files.paths import lasting
from pipeline.files.run_format import FORMAT, FORMAT_KEY
from pipeline.runs.folder import storable
from pipeline.runs.layout import START
from pipeline.runs.record import read_record
from spire_core.config.model import ModelConfig
from spire_core.errors import ConfigError, RunError

INPUTS = {  # by the name of their hash
    "data_sha256": "images",
    "partition_hash": "images",
    "extractor_hash": "extractor's weights (eval.extractor_weights)",
    "backbone_sha256": "pre-trained model (model.backbone)",
    "text_sha256": "sentence encoder (model.text_encoder)",
    "reference_sha256": "images of the test split (eval.reference)",
}


def save_start(
    run_dir: Path, config: Config, preset: str | None, hashes: Mapping[str, str]
) -> None:
    """Write the file that `load_start` and `check_same` read to resume a run."""
    values = {FORMAT_KEY: FORMAT, "numbers": NUMBERS, "preset": preset, "config": storable(config)}
    write_json(run_dir / START, values | dict(hashes))


def check_same(run_dir: Path, hashes: Mapping[str, str]) -> None:
    """Raise RunError if a run began with another version of the numbers or with other hashes.

    `hashes`: of data, partition, extractor and pre-trained model (`FederationSetup.hashes`), or of
    some of them.
    """
    if not (run_dir / START).is_file():  # killed before it had read any data
        return
    with reading("a run's configuration", run_dir / START, "start a new run"):
        began = read_object(run_dir / START)
        number = began["numbers"]
        wrong = [name for name, value in hashes.items() if began[name] != value]
    if number != NUMBERS:
        raise RunError(
            f"expected the code with which the run in {run_dir} began (version {number} of its "
            f"numbers), got version {NUMBERS}: use that code again, or start a new run"
        )
    if wrong:
        raise RunError(
            f"expected the {INPUTS[wrong[0]]} with which the run in {run_dir} began, got others "
            f"(by their {wrong[0]}): put them back, or start a new run"
        )


def located(config: Config) -> Config:
    """Return a configuration with absolute paths.

    ConfigError for a path that is relative to the temporary folder of a Ray job.
    """
    data, evaluation = _rooted(config.data), config.eval
    if data.path:
        data = replace(data, path=str(lasting(data.path, "data.path")))
    if weights := evaluation.extractor_weights:
        weights = str(lasting(weights, "eval.extractor_weights"))
        evaluation = replace(evaluation, extractor_weights=weights)
    return replace(config, data=data, eval=evaluation, model=_lasting_model(config.model))


def _lasting_model(model: ModelConfig) -> ModelConfig:
    if model.backbone is not None:
        model = replace(model, backbone=str(lasting(model.backbone, "model.backbone")))
    if model.text_encoder is not None:
        encoder = lasting(model.text_encoder, "model.text_encoder")
        model = replace(model, text_encoder=str(encoder))
    return model


def _rooted(data: DataConfig) -> DataConfig:
    """Return settings with an absolute root; None, the default of each machine, stays."""
    return replace(data, root=str(lasting(data.root, "data.root"))) if data.root else data


def _stored(run_dir: Path) -> tuple[Config, str | None]:
    with reading("a run's configuration", run_dir / START, "start a new run"):
        stored = read_object(run_dir / START)
        return config_from_dict(stored["config"]), stored["preset"]


def load_start(
    run_dir: Path, given: TrackingConfig | None = None, overrides: Sequence[str] = ()
) -> tuple[Config, str | None]:
    """Return a run's configuration, with overrides, and its preset.

    `given`: the user's settings, which say where it is tracked; None stands for the root of the
    folder. RunError if the folder has no intact start; ConfigError for a missing package, or an
    override that changes the result.
    """
    given = given or TrackingConfig(root=str(run_dir.parent.parent))
    began, preset = _stored(run_dir)
    config = overridden(began, overrides)
    _check_unchanged(began, config)
    if (weights := config.eval.extractor_weights) is not None:
        weights = str(lasting(weights, "eval.extractor_weights"))
    evaluation = replace(config.eval, extractor_weights=weights)
    tracking = replace(config.tracking, uri=given.uri, root=str(tracking_root(given)))
    groups = {"data": _rooted(config.data), "model": _lasting_model(config.model)}
    return replace(config, eval=evaluation, tracking=tracking, **groups), preset


def load_resumed(
    run_dir: Path, given: TrackingConfig, overrides: Sequence[str]
) -> tuple[Config, str | None]:
    """Return what `load_start` does, of a run that goes on with overrides that all count.

    Its checkpoints go to `given.storage`. RunError if they went to another one that the user has
    not typed. ConfigError as `load_start` says, for an override that has no effect, and for a store
    of a run that began without one: MLflow would have none of its record so far.
    """
    config, preset = load_start(run_dir, given, overrides)
    record, typed = read_record(run_dir), flattened(read_words(overrides))
    for key in ("tracking.uri", "tracking.enabled"):
        if typed.get(key) and not record["tracked"]:
            raise ConfigError(
                f"expected no store for run {record['run_id']}, which began with "
                f"tracking.enabled=false, got {key}: leave it out, or start a new run"
            )
    say_without_effect(without_effect(config, overrides))
    if "tracking.storage" in typed:
        return config, preset
    if config.tracking.storage is not None and given.storage is None:
        word = shlex.quote(f"tracking.storage={config.tracking.storage}")
        raise RunError(
            f"expected the storage of the checkpoints of run {record['run_id']}, got none: add "
            f"{word} to go on there, or tracking.storage=null to keep them on this machine alone"
        )
    return replace(config, tracking=replace(config.tracking, storage=given.storage)), preset


def _check_unchanged(began: Config, config: Config) -> None:
    """Raise ConfigError if overrides have changed the result of a run, or its record's name."""
    for name in ("experiment", "run_name"):
        first, now = getattr(began.tracking, name), getattr(config.tracking, name)
        if now != first:
            raise ConfigError(
                f"expected tracking.{name}={first or 'null'}, with which the run began, got {now}: "
                "its record keeps it, so leave it as it is"
            )
    for name in ("data.path", "model.backbone", "model.text_encoder"):
        first, now = (flattened(one.as_dict())[name] for one in (began, config))
        if now != first and fingerprint(config) != fingerprint(began):
            raise ConfigError(
                f"expected {name}={first}, with which the run began, got {now}: put the files there"
            )
