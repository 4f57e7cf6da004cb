"""How a configuration is read: presets and YAML texts, with overrides merged in.

A group given as a bare word sets its name: `method=spire` means `method.name=spire`.
"""

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.config.build import Built, build, hint
from pipeline.config.safe_yaml import check_plain
from pipeline.config.schema import Config, config_from_dict
from spire_core.errors import ConfigError

NAMED_GROUPS = ("data", "partition", "method")
MAX_KEY = 200  # characters


def preset_names() -> list[str]:
    """Return the names of the presets that ship with the package."""
    folder = resources.files("pipeline.config") / "presets"
    names = (path.name for path in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def _load_preset(name: str) -> DictConfig:
    if name not in preset_names():
        raise ConfigError(
            f"expected a preset out of {', '.join(preset_names())}, got {name!r}: "
            f"{hint(name, preset_names())}"
        )
    text = (resources.files("pipeline.config") / "presets" / f"{name}.yaml").read_text()
    loaded = OmegaConf.create(text)
    assert isinstance(loaded, DictConfig)
    return loaded


def _known_keys(prefix: str, node: dict[str, Any]) -> list[str]:
    keys = []
    for key, value in node.items():
        keys += _known_keys(f"{prefix}{key}.", value) if isinstance(value, dict) else [prefix + key]
    return keys


def _parse_override(text: str) -> DictConfig:
    key, sep, value = text.partition("=")
    if not sep or not key.strip() or len(key) > MAX_KEY:
        raise ConfigError(
            f"expected an override as key=value, got {text!r}: such as client.lr=0.001"
        )
    check_plain(value, key)
    if key in NAMED_GROUPS:
        key = f"{key}.name"
    try:
        return OmegaConf.from_dotlist([f"{key}={value}"])
    except Exception as error:  # YAML and OmegaConf each have their own family of errors
        told = f"expected a value for {key}, got {value!r}: {error}".splitlines()[0]
        raise ConfigError(told) from error


def _parse_overrides(overrides: Sequence[str]) -> DictConfig:
    try:
        parsed = OmegaConf.merge(*(_parse_override(text) for text in overrides))
    except OmegaConfBaseException as error:
        told = f"expected overrides that fit together, got {' '.join(overrides)}: {error}"
        raise ConfigError(told.splitlines()[0]) from error
    assert isinstance(parsed, DictConfig)
    return parsed


def _check_shape(base: dict[str, Any], layer: Any, known: Sequence[str], prefix: str = "") -> None:
    """Raise ConfigError where a layer's key is unknown, or its value of another shape."""
    if not isinstance(layer, dict):
        group = prefix.rstrip(".")
        raise ConfigError(
            f"expected settings under {group}, got {layer!r}: such as {prefix}KEY=VALUE"
        )
    for key, value in layer.items():
        if key not in base:
            name = f"{prefix}{key}"
            raise ConfigError(f"expected a known key, got {name!r}: {hint(name, known)}")
        if isinstance(base[key], dict):
            _check_shape(base[key], value, known, f"{prefix}{key}.")
        elif isinstance(value, dict):
            raise ConfigError(
                f"expected one value for {prefix}{key}, got settings {value}: it is not a group"
            )
        elif isinstance(base[key], list | tuple) and not isinstance(value, list):
            raise ConfigError(
                f"expected a list for {prefix}{key}, got {value!r}: such as {prefix}{key}=[1,2]"
            )


def _merge(base: DictConfig, layer: DictConfig, known: Sequence[str]) -> DictConfig:
    """Merge one layer strictly; one of tau and local_epochs withdraws the other in layers below."""
    plain: Any = OmegaConf.to_container(layer)
    _check_shape(OmegaConf.to_container(base), plain, known)  # type: ignore[arg-type]
    given = plain.get("federation", {})
    tau, epochs = given.get("tau"), given.get("local_epochs")
    if tau is not None and epochs is None:
        base.federation.local_epochs = None
    if epochs is not None and tau is None:
        base.federation.tau = None
    try:
        merged = OmegaConf.merge(base, layer)
        OmegaConf.resolve(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(f"expected a valid setting, got: {str(error).splitlines()[0]}") from error
    assert isinstance(merged, DictConfig)
    return merged


def load_config(preset: str | None, overrides: Sequence[str] = ()) -> Config:
    """Return a preset with overrides `key=value` applied in order; ConfigError if it is wrong."""
    return overridden(Config() if preset is None else _preset_config(preset), overrides)


@cache
def _preset_config(preset: str) -> Config:
    return _layered(Config(), _load_preset(preset))


def overridden(config: Config, overrides: Sequence[str]) -> Config:
    """Return a configuration with overrides `key=value`; ConfigError if one is wrong."""
    return _layered(config, _parse_overrides(overrides)) if overrides else config


def _layered(base: Config, layer: DictConfig) -> Config:
    values = base.as_dict()
    merged = _merge(OmegaConf.create(values), layer, _known_keys("", values))
    return config_from_dict(OmegaConf.to_container(merged, resolve=True))  # type: ignore[arg-type]


def read_settings(text: str, source: str) -> dict[str, Any]:
    """Return the settings of a YAML text as plain values; ConfigError if it holds no settings."""
    check_plain(text, source)
    try:
        loaded = OmegaConf.to_container(OmegaConf.create(text), resolve=True)
    except Exception as error:  # YAML and OmegaConf each have their own family of errors
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"expected YAML settings in {source}, got {told}: correct it") from error
    if not isinstance(loaded, dict) or not _has_text_keys(loaded):
        raise ConfigError(
            f"expected KEY: VALUE settings in {source}, got {loaded!r:.200}: correct it"
        )
    return loaded  # type: ignore[return-value]


def _has_text_keys(values: Any) -> bool:
    if isinstance(values, dict):
        return all(isinstance(k, str) and _has_text_keys(v) for k, v in values.items())
    return not isinstance(values, list) or all(map(_has_text_keys, values))


def split_override(text: str) -> tuple[str, Any]:
    """Return the key and the plain value of an override `key=value`; ConfigError if it is none."""
    key, _, value = text.partition("=")
    _parse_override(text)
    parsed: Any = OmegaConf.to_container(_parse_override(f"x={value}"))
    return key, parsed["x"]


def merge_settings(
    kind: type[Built], base: dict[str, Any], text: str, source: str, overrides: Sequence[str]
) -> Built:
    """Return a dataclass with the values of `base`, of a YAML text and of overrides, in order.

    As strict as `load_config`: ConfigError for an unknown key or a value of the wrong shape.
    """
    merged = OmegaConf.create(base)
    known = _known_keys("", base)
    layers = [OmegaConf.create(read_settings(text, source))]
    if overrides:
        layers.append(_parse_overrides(overrides))
    for layer in layers:
        merged = _merge(merged, layer, known)  # type: ignore[arg-type]
    return build(kind, OmegaConf.to_container(merged, resolve=True))
