"""What is taken for settings in YAML: plain values, and nothing that refers, runs code or explodes.

A file of settings may come from anybody. YAML's aliases can make gigabytes out of a line, its tags
name types, and OmegaConf's `${...}` reads environment variables: settings need none of them.
"""

from pathlib import Path

import yaml

from spire_core.errors import ConfigError

MAX_CHARS, MAX_DEPTH = 100_000, 20
MAX_SCALAR = 3000  # characters of one value; also what Python converts to a number and back
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # not every machine has the quick one


def read_settings_file(file: str, known: str) -> str:
    """Return the text of a file of settings; ConfigError, with what is `known`, if it is none."""
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
            f"expected {known}, got {file}, which is no UTF-8 text: save it as UTF-8"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:  # also of a home or a NUL in its name
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(
            f"expected {known}, got {file[:100]!r} ({getattr(error, 'strerror', None) or error}): "
            "name one that exists"
        ) from error


def check_plain(text: str, source: str) -> None:
    """Raise ConfigError unless a text is YAML of plain values; nothing of it is built meanwhile.

    `source` says in the message what the text is: a file or a key.
    """
    if len(text) > MAX_CHARS:
        raise ConfigError(
            f"expected at most {MAX_CHARS} characters in {source}, got {len(text)}: these are no "
            "settings"
        )
    depth = 0
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if problem := _problem(event, depth):
                raise ConfigError(f"expected plain values in {source}, got {problem}: write it out")
    except yaml.YAMLError as error:
        told = " ".join(str(error).split())
        raise ConfigError(f"expected YAML settings in {source}, got {told}: correct it") from error


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
    return None
