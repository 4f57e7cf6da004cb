"""YAML of plain values alone: nothing that refers to something, runs code or explodes.

A file of settings may come from anybody. YAML's aliases can make gigabytes out of a line and its
tags name types. A reference such as OmegaConf's `${...}` would be taken for a text.
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from spire_core.config.checks import hint
from spire_core.errors import ConfigError

MAX_CHARS, MAX_DEPTH = 1_000_000, 20  # of which a vocabulary of 10,000 words needs most
MAX_SCALAR = 3000  # characters of one value; also what Python converts to a number and back
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # not every machine has the quick one
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")  # 1:30 means 90
_BASE_8 = re.compile(r"[-+]?0[0-7_]+")  # 010 means 8
_DATE = "tag:yaml.org,2002:timestamp"


def read_settings_file(file: str, known: str, names: Sequence[str]) -> str:
    """Return the text of a file of settings; ConfigError, with what is `known`, if it is none.

    `names` may stand in place of a file, and one of them may have been meant.
    """
    try:
        path = Path(file).expanduser()
        if path.stat().st_size > 4 * MAX_CHARS or not path.is_file():
            raise ConfigError(
                f"expected {known}, got {file[:100]!r}, which is no file of at most {MAX_CHARS} "
                "characters: name another"
            )
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"expected UTF-8 text in {file}, got other bytes: save it as UTF-8"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:  # also of a home or a NUL in its name
        if isinstance(error, ConfigError):
            raise
        near = hint(file[:100], names)
        advice = near if near.startswith("did") else "name one that exists"
        raise ConfigError(
            f"expected {known}, got {file[:100]!r} ({getattr(error, 'strerror', None) or error}): "
            f"{advice}"
        ) from error


def first_comment(text: str) -> str:
    """Return the comment at the head of a YAML file as one line, without its marks."""
    lines = takewhile(lambda line: line.startswith("#"), text.lstrip().splitlines())
    return " ".join(" ".join(line.strip("#") for line in lines).split())


def read_plain(text: str, source: str) -> Any:
    """Return the values of a YAML text; ConfigError unless all are plain, with texts as keys.

    Nothing is built before the whole text is checked. `source` names the text in the message: a
    file or a key. As in YAML 1.2, a float needs no dot (1e-3). A date stays a text.
    """
    if len(text) > MAX_CHARS:
        raise ConfigError(
            f"expected at most {MAX_CHARS} characters in {source}, got {len(text)}: these are no "
            "settings"
        )
    try:
        _check_events(text, source)
        values = yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, ArithmeticError, ValueError) as error:  # also of numbers too long
        if isinstance(error, ConfigError):
            raise
        message = " ".join(str(error).split())
        mark = getattr(error, "problem_mark", None)
        # At an unexpected end of the text the mark is below its last line.
        line = "".join(text.split("\n")[mark.line : mark.line + 1]) if mark is not None else ""
        is_tab = line.lstrip(" ").startswith("\t")
        advice = "indent it with spaces, not tabs" if is_tab else "correct it"
        raise ConfigError(f"expected YAML settings in {source}, got {message}: {advice}") from error
    if not _has_text_keys(values):
        raise ConfigError(
            f"expected KEY: VALUE settings in {source}, got {values!r:.200}: correct it"
        )
    return values


def _check_events(text: str, source: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if problem := _problem(event, depth):
            raise ConfigError(f"expected plain values in {source}, got {problem}: write it out")


def _problem(event: yaml.Event, depth: int) -> str | None:
    if depth > MAX_DEPTH:
        return f"more than {MAX_DEPTH} levels"
    if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
        return f"the anchor {event.anchor!r}"  # type: ignore[attr-defined]
    if getattr(event, "tag", None):
        return f"the tag {event.tag!r}"  # type: ignore[attr-defined]
    if isinstance(event, yaml.ScalarEvent):
        if len(event.value) > MAX_SCALAR:
            return f"a value of {len(event.value)} characters"
        if "${" in event.value or event.value == "???":
            return f"OmegaConf's {event.value!r}"
        if event.implicit[0] and _BASE_60.fullmatch(event.value):
            return f"{event.value}, which YAML 1.1 takes for a number of base 60"
        if event.implicit[0] and _BASE_8.fullmatch(event.value):
            return f"{event.value}, which YAML 1.1 takes for a number of base 8"
    return None


def _has_text_keys(values: Any) -> bool:
    if isinstance(values, dict):
        return all(isinstance(k, str) and _has_text_keys(v) for k, v in values.items())
    return not isinstance(values, list) or all(map(_has_text_keys, values))


class _PlainLoader(_LOADER):
    """YAML's safe loader, with two keys of the same name refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = Counter(str(key.value) for key, _ in node.value)
        for name, count in names.items():
            if count > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name} twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _DATE]
    for first, resolvers in _LOADER.yaml_implicit_resolvers.items()
}


class _PlainDumper(yaml.SafeDumper):
    """YAML's safe dumper, which quotes a text that `_PlainLoader` takes for a number."""


for _kind in (_PlainLoader, _PlainDumper):
    _kind.add_implicit_resolver(  # YAML 1.1 asks for a dot, and for a sign in the exponent
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )


def write_value(value: Any) -> str:
    """Return a value as a line, in JSON, from which `read_plain` returns it again.

    Emoji are written as they are, since YAML takes none of JSON's pairs of codes.
    """
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)


def write_plain(values: Any, **style: Any) -> str:
    """Return values as a YAML text from which `read_plain` returns them again."""
    return yaml.dump(values, Dumper=_PlainDumper, **style).strip()
