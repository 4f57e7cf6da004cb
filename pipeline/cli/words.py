"""The words of a command line: names and `key=value` settings, and what to say of wrong ones."""

import difflib
import os
from collections.abc import Collection, Sequence

from spire_core.errors import ConfigError


def check_words(words: Sequence[str]) -> None:
    """Raise ConfigError for a word that is not UTF-8, which no record can hold."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(
                f"expected names and settings in UTF-8, got {word!r}: rename it"
            ) from error


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
    if len(names) > 1:
        folders = [name for name in names if what == "preset" and os.path.isdir(name)]
        such = f"data.path={folders[0]}" if folders else "client.lr=0.001"
        raise ConfigError(
            f"expected one {what} and key=value settings, got {' and '.join(names)}: write a "
            f"setting as key=value, such as {such}"
        )
    return (names or [None])[0], settings


def allowed(overrides: Sequence[str], prefixes: tuple[str, ...]) -> Sequence[str]:
    """Return the overrides; ConfigError for one that begins with none of the prefixes."""
    for word in overrides:
        if "=" not in word:
            raise ConfigError(
                f"expected key=value settings, got {word!r}: a setting is written key=value, and "
                "an option --name VALUE"
            )
        if not word.startswith(prefixes):
            advice = _nearest(word, prefixes) or "everything else was fixed by the run"
            raise ConfigError(
                f"expected settings of {', '.join(a.rstrip('.=') for a in prefixes)} only, got "
                f"{word!r}: {advice}"
            )
    return overrides


def meant_setting(rest: Sequence[str]) -> str | None:
    """Return the setting that was typed as an option: `--client.lr=1`, or `--seed 3`."""
    name = next(word for word in rest if word.startswith("-")).lstrip("-") if rest else ""
    after = rest[rest.index(f"--{name}") + 1 :] if f"--{name}" in rest else []
    if "=" in name or not after or after[0].startswith("-"):
        return name if "=" in name else None
    return f"{name.replace('-', '_')}={after[0]}"


def meant_option(rest: Sequence[str], options: Collection[str]) -> str | None:
    """Return the option that one that no verb knows is probably meant to be."""
    typed = next((word.partition("=")[0] for word in rest if word.startswith("--")), None)
    if typed is None or "." in typed:
        return None
    alike = [one for one in options if one.startswith(typed) or typed.startswith(f"{one}s")]
    return next(iter([*alike, *difflib.get_close_matches(typed, options, 1, 0.8)]), None)


def option_as_setting(words: Sequence[str], options: Collection[str]) -> str | None:
    """Return what is to be said of an option that was typed as a setting: `client=0`."""
    for word in words:
        name, sep, value = word.partition("=")
        option = f"--{name.replace('_', '-')}"
        if sep and option in options:
            return f"expected {option} {value}, got {word}: it is an option, not a setting"
    return None


def _nearest(word: str, prefixes: tuple[str, ...]) -> str | None:
    """Return the advice for a setting without its group; None if no allowed group has it."""
    from pipeline.config.load import known_keys
    from pipeline.config.schema import Config

    name, _, value = word.partition("=")
    keys = [key for key in known_keys(Config) if f"{key}=".startswith(prefixes)]
    meant = [f"{key}={value}" for key in keys if key.rpartition(".")[2] == name]
    return f"did you mean {' or '.join(meant)}?" if meant else None
