"""What settings of a sweep stand for: an axis's values, absolute paths, the label of a key."""

from collections.abc import Collection, Mapping
from typing import Any

from pipeline.config.data import DATASETS
from pipeline.config.load import flattened
from pipeline.config.schema import Config
from pipeline.files.paths import lasting
from spire_core.config.privacy import label_of

# Settings that name files but not their content, so that sweeps cannot know them for the same.
BY_PATH = ("data.path", "eval.extractor_weights", "model.backbone", "model.text_encoder")
NOISE_KEY = "privacy.noise_key"


def settings_of(name: str, value: Any) -> dict[str, Any]:
    """Return the settings that a value on an axis stands for, by key of the configuration."""
    return flattened(value if isinstance(value, dict) else {name: value})


def with_absolute_path(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return settings with absolute paths, the same ones everywhere."""
    named = {key: settings.get(key) for key in BY_PATH}
    paths = {key: path for key, path in named.items() if path and isinstance(path, str)}
    return {**settings, **{key: str(lasting(path, key)) for key, path in paths.items()}}


def located_value(name: str, value: Any) -> Any:
    """Return a value on an axis with absolute paths."""
    if isinstance(value, dict):
        return with_absolute_path(flattened(value))
    return with_absolute_path({name: value})[name]


def relative_paths(config: Config, without: Collection[str] = ()) -> dict[str, str]:
    """Return what the relative paths of a configuration stand for here, by key.

    `without`: keys whose values others replace. A data set with a name has no path.
    """
    values = flattened(config.as_dict())
    given = {k: values[k] for k in BY_PATH if values[k] is not None and k not in without}
    if config.data.name in DATASETS or {"data", "data.name"} & {*without}:
        given.pop("data.path", None)
    return {key: path for key, path in with_absolute_path(given).items() if path != given[key]}


def labelled(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings, however they are nested, with the label of a noise key in its place."""
    whole = {key: f"{prefix}{key}" for key in settings}
    return {
        key: labelled(value, f"{whole[key]}.")
        if isinstance(value, dict)
        else shown(whole[key], value)
        for key, value in settings.items()
    }


def shown(name: str, value: Any) -> Any:
    """Return the value of a setting, or settings that go together, without a noise key."""
    if isinstance(value, dict):
        return labelled(value)
    return label_of(value) if name == NOISE_KEY and isinstance(value, str) else value
