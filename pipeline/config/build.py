"""Records of settings out of plain values, each value checked by its field's type."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from spire_core.errors import ConfigError

Built = TypeVar("Built")
MAX_NUMBER = 2**63  # what arrays, files and databases take
_REFUSED = object()


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings by their whole key, such as federation.tau, however they are nested."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            found |= flattened(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def build(kind: type[Built], values: Any, prefix: str = "") -> Built:
    """Return a record of settings out of plain values; ConfigError where one does not fit."""
    if not isinstance(values, dict):
        raise ConfigError(
            f"expected settings under {prefix.rstrip('.')}, got {values!r}: "
            f"such as {prefix}KEY=VALUE"
        )
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in values.keys() - fields.keys():
        raise ConfigError(f"expected a known key, got {prefix + key!r}: {hint(key, list(fields))}")
    return kind(**{k: _typed(fields[k].type, v, prefix + k) for k, v in values.items()})


def _typed(kind: Any, value: Any, key: str) -> Any:
    """Return a value as its field's type, or raise ConfigError."""
    if dataclasses.is_dataclass(kind):
        return build(kind, value, key + ".")  # type: ignore[arg-type]
    options = getattr(kind, "__args__", (kind,)) if not hasattr(kind, "__origin__") else (kind,)
    for option in options:
        converted = _convert(option, value)
        if converted is not _REFUSED:
            return converted
    name = getattr(kind, "__name__", str(kind)).replace("None", "null")
    if isinstance(value, int | float) and not -MAX_NUMBER < value < MAX_NUMBER:
        name += " below 2^63"
    raise ConfigError(f"expected {key} as {name}, got {value!r}: change its value")


def _convert(kind: Any, value: Any) -> Any:
    if kind is dict:
        return value if isinstance(value, dict) else _REFUSED
    if getattr(kind, "__origin__", None) is tuple:
        args = kind.__args__
        if not isinstance(value, list | tuple):
            return _REFUSED
        inner = args[:1] * len(value) if args[-1] is Ellipsis else args
        items = [_convert(k, v) for k, v in zip(inner, value, strict=False)]
        same = len(inner) == len(value)
        return _REFUSED if not same or any(i is _REFUSED for i in items) else tuple(items)
    if isinstance(value, int | float) and not -MAX_NUMBER < value < MAX_NUMBER:
        return _REFUSED  # nor NaN
    if isinstance(value, str) and "${" in value:
        return _REFUSED  # OmegaConf would look up what it names, such as environment variables
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, bool):
        return _REFUSED
    return value if isinstance(value, kind) else _REFUSED


def hint(name: str, known: Sequence[str]) -> str:
    """Return what to do about an unknown name: the known one that was probably meant."""
    meant = name.replace("learning_rate", "lr")  # no match by letters
    near = difflib.get_close_matches(meant, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else "choose one of them"
