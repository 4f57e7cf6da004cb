"""Records of settings out of plain values: each key is known, each value fits its field's type."""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pipeline.config.key_hints import SETTINGS, key_hint
from spire_core.config.checks import Range
from spire_core.errors import ConfigError

Built = TypeVar("Built")
MAX_NUMBER = 2**63  # the limit of arrays, files and databases
KINDS = {"bool": "true or false", "None": "null"}  # of values, as people write them
LISTS = {tuple[str, ...]: "[a,b]", tuple[float, float]: "[0.9,0.99]"}  # examples, or [1,2]
LISTS |= {tuple[float, ...] | None: "[1,1.5,2,3]", tuple[float, float] | None: "[0.2,5]"}
_REFUSED = object()


def flattened(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by their whole key, such as federation.tau, however they are nested."""
    return dict(whole_keys(settings))


def whole_keys(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each setting's whole key and its value; one given nested and flat comes twice."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from whole_keys(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def build(base: Built | type[Built], values: Any, listed: str = SETTINGS) -> Built:
    """Return a record of settings with `values`, by group, in place of those of `base`.

    `base` is a record or, for the defaults, its class. ConfigError names the key that is unknown,
    or whose value does not fit; `listed` says where all keys are found.
    """
    return _built(base, values, "", list(known_keys(base)), listed)


def _built(base: Any, values: Any, prefix: str, known: list[str], listed: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(
            f"expected settings under {prefix.rstrip('.') or 'the configuration'}, got {values!r}: "
            f"such as {prefix}KEY=VALUE"
        )
    kinds, changes = {field.name: field.type for field in dataclasses.fields(base)}, {}
    for key, value in values.items():
        name, kind = f"{prefix}{key}", kinds.get(key)
        if kind is None:
            groups = {one.partition(".")[0] for one in known if "." in one}
            if isinstance(value, dict) and difflib.get_close_matches(name.lower(), groups):
                name = next(iter(flattened({name: value})), name)  # with its first setting
            advice = key_hint(name, known, listed)
            raise ConfigError(f"expected a known key, got {name!r}: {advice}")
        if dataclasses.is_dataclass(kind):
            group = kind if isinstance(base, type) else getattr(base, key)
            changes[key] = _built(group, value, f"{name}.", known, listed)
        else:
            changes[key] = _typed(kind, value, name)
    return base(**changes) if isinstance(base, type) else dataclasses.replace(base, **changes)


def known_keys(kind: Any, prefix: str = "") -> Iterator[str]:
    """Yield the whole key of each setting of a record, or of its class."""
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            yield from known_keys(field.type, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def takes_null(kind: Any, key: str) -> bool:
    """Return whether a setting of a record's class may be null; `key` is its whole key."""
    kinds = {field.name: field.type for field in dataclasses.fields(kind)}
    name, _, rest = key.partition(".")
    own = kinds.get(name)
    if rest:
        return dataclasses.is_dataclass(own) and takes_null(own, rest)
    return NoneType in _options(_bare(own))


def _bare(kind: Any) -> Any:
    """Return a field's type without its rules."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _options(kind: Any) -> tuple[Any, ...]:
    """Return the types that a value may have."""
    return get_args(kind) if isinstance(kind, UnionType) else (kind,)


def _list_of(kind: Any) -> Any:
    """Return the type of a list that a value may be, None if it may be none."""
    return next((one for one in _options(kind) if get_origin(one) is tuple), None)


def _typed(kind: Any, value: Any, name: str) -> Any:
    """Return a value as a field's type; ConfigError if it does not fit."""
    rules, kind = getattr(kind, "__metadata__", ()), _bare(kind)
    for option in _options(kind):
        converted = _converted(option, value)
        if converted is not _REFUSED:
            return converted
    if isinstance(value, dict):
        raise ConfigError(f"expected one value for {name}, got settings {value}: it is not a group")
    if _list_of(kind) and not isinstance(value, list | tuple):
        wanted = "a list or null" if NoneType in _options(kind) else "a list"
        such = f"{name}={LISTS.get(kind, '[1,2]')}"
        raise ConfigError(f"expected {wanted} for {name}, got {value!r}: such as {such}")
    expected = _kind_text(kind) + (" below 2^63" if _is_out_of_range(value) else "")
    is_off = _is_out_of_range(value)  # else a range's advice is about other values
    given = (getattr(r, "advice", "") for r in rules if is_off or not isinstance(r, Range))
    advice = next(filter(None, given), _advice(kind, value, name))
    raise ConfigError(f"expected {name} as {expected}, got {value!r}: {advice}")


def _advice(kind: Any, value: Any, name: str) -> str:
    if isinstance(value, list | tuple) and not _list_of(kind):
        return "choose one value" + (f", or vary axes.{name} in a sweep" if "." in name else "")
    if _list_of(kind) and get_args(_list_of(kind))[0] is str:
        return f"""quote texts such as numbers, '{name}=["7"]'"""
    return "change its value"


def _kind_text(kind: Any) -> str:
    """Return a field's type in words."""
    options = _options(kind)
    if (many := _list_of(kind)) is not None:
        first, *rest = get_args(many)
        size = "" if rest == [Ellipsis] else f"{1 + len(rest)} "
        null = ", or null" if NoneType in options else ""
        return f"a list of {size}{KINDS.get(first.__name__, first.__name__)} values{null}"
    if str in options and len(options) > 1 and NoneType not in options:
        return ("a whole number" if int in options else "a number") + " or auto"
    names: list[str] = re.findall(r"\w+", getattr(kind, "__name__", str(kind)))
    return " | ".join(KINDS.get(name, name) for name in names)


def _converted(kind: Any, value: Any) -> Any:
    """Return a value as one of its field's types, or `_REFUSED`."""
    if get_origin(kind) is tuple:
        return _entries(get_args(kind), value)
    is_reference = isinstance(value, str) and "${" in value  # refused in YAML, so also in JSON
    if is_reference or _is_out_of_range(value) or isinstance(value, bool) != (kind is bool):
        return _REFUSED
    if kind is float and isinstance(value, int):
        return float(value)
    return value if isinstance(value, kind) else _REFUSED


def _entries(kinds: tuple[Any, ...], values: Any) -> Any:
    if not isinstance(values, list | tuple):
        return _REFUSED
    kinds = kinds[:1] * len(values) if kinds[-1] is Ellipsis else kinds
    if len(kinds) != len(values):
        return _REFUSED
    entries = tuple(map(_converted, kinds, values))
    return _REFUSED if _REFUSED in entries else entries


def _is_out_of_range(value: Any) -> bool:
    """Return whether a value is a number that nothing here takes, or NaN."""
    return isinstance(value, int | float) and not -MAX_NUMBER < value < MAX_NUMBER
