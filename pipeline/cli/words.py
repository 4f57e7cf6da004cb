"""The words of a command line: names and `key=value` settings, and what a tab offers for them."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipeline.config.load import known_keys, preset_names
from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig
from pipeline.runs.record import read_record, run_folders
from spire_core.config.checks import require

DEFAULT_PRESET = "mnist-cpu"
Words = tuple[str, ...]


def words_of(settings: Any, prefixes: tuple[str, ...] = ("",)) -> list[str]:
    """Return settings as words: of a mapping, nested or by whole keys, of words or of one.

    ConfigError for a key that begins with none of the prefixes.
    """
    if isinstance(settings, Mapping):
        flat = _flat(settings)
        settings = [f"{k}={json.dumps(v, default=_plain, ensure_ascii=False)}" for k, v in flat]
    elif isinstance(settings, str):
        settings = [settings]
    return allowed([*(settings or ())], prefixes)


def _flat(settings: Mapping[str, Any], group: str = "") -> Iterator[tuple[str, Any]]:
    """Yield settings by whole keys; a range {"min": A, "max": B} of a sweep's axis is a value."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and "min" not in value:
            yield from _flat(value, f"{group}{key}.")
        else:
            yield group + key, value


def _plain(value: Any) -> Any:
    """Return a value of NumPy or torch, a range or a path as JSON has it."""
    if isinstance(value, range):
        return list(value)
    return value.tolist() if hasattr(value, "tolist") else str(value)


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the names and the key=value settings among the words of the command line.

    The name of a trial may have settings in it, after a space.
    """
    settings = [word for word in words if _is_setting(word)]
    return [word for word in words if not _is_setting(word)], settings


def _is_setting(word: str) -> bool:
    key, sep, _ = word.partition("=")
    return bool(sep) and len(key.split()) < 2


def split_one(words: Sequence[str], what: str) -> tuple[str | None, list[str]]:
    """Return the one name, or None, and the key=value settings; ConfigError for several names.

    `what` describes the name in the message.
    """
    names, settings = split_words(words)
    expected = f"one {what} and key=value settings"
    require(len(names) < 2, expected, " and ".join(names), "write a setting as key=value")
    return next(iter(names), None), settings


def preset_and_settings(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the preset, or the default one, and the settings among the words."""
    preset, settings = split_one(words, "preset")
    return preset or DEFAULT_PRESET, settings


def allowed(words: Sequence[str], prefixes: tuple[str, ...]) -> list[str]:
    """Return the words; ConfigError for one that is no setting of these prefixes."""
    listed = ", ".join(prefix.rstrip(".=") for prefix in prefixes)
    for word in words:
        is_met, advice = word.startswith(prefixes), "a run has fixed everything else"
        require(is_met, f"settings of {listed} only", repr(word), advice)
    return [*words]


# --- what a tab offers --------------------------------------------------------------------------


def offered(names: Callable[[], Iterable[str]]) -> Callable[..., list[str]]:
    """Return a completer: those of the names that begin as the word does."""
    return lambda ctx, param, start: [name for name in names() if name.startswith(start)]


def keys() -> list[str]:
    """Return the keys of all settings, each with its sign."""
    return [f"{key}=" for key in (*known_keys(Config), "method", "data", "partition")]


def presets_and_keys() -> list[str]:
    """Return the presets, then the keys of all settings."""
    return [*preset_names(), *keys()]


def runs() -> list[str]:
    """Return the runs under the root, by name and by id."""
    folders = run_folders(TrackingConfig())
    names = {read_record(folder)["run_name"] for folder in folders}
    return ["last", *sorted(names), *(folder.name for folder in folders)]
