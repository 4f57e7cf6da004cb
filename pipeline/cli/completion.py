"""Completion in shells: verbs, options, presets, sweeps, settings and runs after a tab.

argcomplete does the shell's part: `eval "$(register-python-argcomplete spire)"` turns it on.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator

Names = Callable[[], Iterable[str]]


def complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks what could follow, and exit; return if none asks."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    import argcomplete

    for verb in _verbs(parser):
        for action in verb._actions:
            if (names := _names_of(verb, action)) is not None:
                action.completer = _completer(names)  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser, exit_method=sys.exit)


def _verbs(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield the parser of each verb that takes no further verb."""
    below = [action.choices for action in parser._actions if isinstance(action.choices, dict)]
    if not below:
        yield parser
    for verb in (verb for verbs in below for verb in verbs.values()):
        yield from _verbs(verb)


def _names_of(verb: argparse.ArgumentParser, action: argparse.Action) -> Names | None:
    """Return the words that an argument can be, or None to leave it to the shell."""
    listed: Names = getattr(verb, "names", None) and verb.names[1]  # type: ignore[attr-defined]
    if action.dest == "run":
        return _run_names
    if action.dest == "file":
        return listed
    if action.dest == "words" and listed:
        is_own = "|" in str(action.metavar)  # the first of these words is a name
        return lambda: [*(listed() if is_own else ()), *(f"{key}=" for key in _keys())]
    return None


def _completer(names: Names) -> Callable[..., list[str]]:
    def completer(prefix: str, **_: object) -> list[str]:
        return [name for name in names() if name.startswith(prefix)]

    return completer


def _keys() -> list[str]:
    from pipeline.config.load import known_keys
    from pipeline.config.schema import Config

    return [*known_keys(Config), "method", "data", "partition"]


def _run_names() -> list[str]:
    from pipeline.config.tracking import TrackingConfig
    from pipeline.runs.record import read_record, run_folders

    folders = run_folders(TrackingConfig())
    named = {read_record(folder)["run_name"] for folder in folders}
    return ["last", *sorted(named), *(folder.name for folder in folders)]
