"""How a configuration is read: presets and YAML texts, with overrides merged in.

A group given as a bare word sets its name: `method=spire` means `method.name=spire`.
"""

from collections.abc import Sequence
from functools import cache, reduce
from importlib import resources
from typing import Any

from pipeline.config.build import build, takes_null
from pipeline.config.safe_yaml import read_plain, write_value
from pipeline.config.schema import Config
from spire_core.config.checks import hint, require
from spire_core.errors import ConfigError

NAMED_GROUPS = ("data", "partition", "method")
MAX_KEY = 200  # characters
NULLS = ("null", "Null", "NULL", "~")  # YAML's words; it also takes nothing for null


def preset_names() -> list[str]:
    """Return the names of the presets that ship with the package."""
    folder = resources.files("pipeline.config") / "presets"
    names = (path.name for path in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_config(preset: str | None, overrides: Sequence[str] = ()) -> Config:
    """Return a preset with overrides `key=value` applied in order; ConfigError if it is wrong."""
    if not isinstance(preset, str | None):  # from Python
        raise ConfigError(f"expected a preset's name, got {preset!r}: settings come after it")
    return overridden(Config() if preset is None else _preset(preset), overrides)


@cache
def _preset(name: str) -> Config:
    known = preset_names()
    require(name in known, f"a preset out of {', '.join(known)}", repr(name), hint(name, known))
    file = resources.files("pipeline.config") / "presets" / f"{name}.yaml"
    return build(Config(), _with_one_length(read_settings(file.read_text(), file.name)))


def overridden(config: Config, overrides: Sequence[str]) -> Config:
    """Return a configuration with overrides `key=value`; ConfigError if one is wrong."""
    return build(config, _with_one_length(read_overrides(overrides))) if overrides else config


def _with_one_length(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings in which one of tau and local_epochs withdraws the other of layers below."""
    federation = settings.get("federation")
    if not isinstance(federation, dict):
        return settings
    lengths = ("tau", "local_epochs")
    given = [name for name in lengths if federation.get(name) is not None]
    unset = dict.fromkeys(lengths) if len(given) == 1 else {}
    return {**settings, "federation": unset | federation}


def read_settings(text: str, source: str) -> dict[str, Any]:
    """Return the settings of a YAML text as plain values; ConfigError if it holds no settings."""
    values = read_plain(text, source)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"expected KEY: VALUE settings in {source}, got {values!r:.200}: correct it"
        )
    return values


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Return overrides `key=value` as settings by group, a later one in place of an earlier one."""
    return reduce(merged, map(_nested, overrides), {})


def _nested(override: str) -> dict[str, Any]:
    """Return `a.b=value` as {a: {b: value}}."""
    key, value = split_override(override)
    key = f"{key}.name" if key in NAMED_GROUPS else key
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def split_override(override: str) -> tuple[str, Any]:
    """Return the key and the plain value of an override `key=value`; ConfigError if it is none.

    No value is null unless it is typed, since null turns settings such as epsilon off. `#` begins
    no comment here.
    """
    key, sep, text = override.partition("=")
    if not sep or len(key) > MAX_KEY or not all(part.strip() for part in key.split(".")):
        raise ConfigError(
            f"expected an override as key=value, got {override!r}: such as client.lr=0.001"
        )
    value, text = read_plain(text, key), text.strip()
    if write_value(value).count("#") < text.count("#"):  # YAML took its rest for a comment
        value = read_plain(write_value(text), key)
    if value is None and text not in NULLS:
        null = f", or write {key}=null for none" if takes_null(Config, key) else ""
        raise ConfigError(f"expected a value after {key}=, got {text or 'nothing'}: give one{null}")
    return key, value


def merged(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of two layers by group; where both have one, that of the upper layer."""
    both = lower | upper
    for key in lower.keys() & upper.keys():
        if isinstance(lower[key], dict) and isinstance(upper[key], dict):
            both[key] = merged(lower[key], upper[key])
    return both
