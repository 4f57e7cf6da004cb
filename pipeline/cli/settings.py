"""Settings as Python has them, as the words `key=value` that the command takes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.cli.words import allowed
from pipeline.config.load import write_value
from spire_core.config.checks import require
from spire_core.errors import ConfigError


def words_of(settings: Any, prefixes: tuple[str, ...] = ("",)) -> list[str]:
    """Return a mapping from keys to values, or None, as words; nested keys become whole ones.

    ConfigError for anything else, and for a key that begins with none of the prefixes: the run has
    fixed it.
    """
    is_mapping = settings is None or isinstance(settings, Mapping)
    advice = 'such as {"client.lr": 0.001}'
    require(is_mapping, "settings as a mapping from keys to values", f"{settings!r:.100}", advice)
    flat = _flat(plain(settings or {}))
    return [*allowed([f"{key}={write_value(flat[key])}" for key in flat], prefixes)]


def plain(value: Any) -> Any:
    """Return a value of numbers, texts, lists and mappings, also for those of NumPy and torch.

    ConfigError for one that holds itself, or whose keys are no texts.
    """
    try:
        return json.loads(json.dumps(value, default=_other))
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"expected a plain value, got {error}: use numbers, texts, lists") from (
            error
        )


def word_of(name: Any, what: str) -> str:
    """Return a name or a folder as the word that the command takes; ConfigError if it is none."""
    advice = "name it by a text or a Path"
    require(isinstance(name, str | Path), what, f"{name!r:.100}", advice)
    return str(name)


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by whole keys; a range {"min": A, "max": B} of a sweep's axis is a value.

    ConfigError for a setting that is given twice, nested and by its whole key.
    """
    flat = dict[str, Any]()
    for key, value in settings.items():
        found = {key: value}
        if isinstance(value, Mapping) and not {"min", "max"} <= value.keys():
            found = {f"{key}.{name}": own for name, own in _flat(value).items()}
        for name in flat.keys() & found.keys():
            raise ConfigError(f"expected one value for {name}, got two: leave one out")
        flat |= found
    return flat


def _other(value: Any) -> Any:
    """Return a value that JSON has no word for as one that it has: a text in the end.

    TypeError for bytes, whose encoding nobody has said.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"{type(value).__name__} {bytes(value)!r:.100}")
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, range):
        return list(value)
    return value.tolist() if hasattr(value, "tolist") else str(value)
