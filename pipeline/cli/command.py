"""The frame of all verbs of the command `spire`: parsing, answers, errors and interrupts.

Stdout gets the answer alone; progress and messages go to stderr; both without secrets.
Heavy packages, such as torch, are imported inside functions.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pipeline.cli.completion import complete
from pipeline.cli.words import check_words, meant_option, meant_setting, option_as_setting
from pipeline.federation.pool import lacks_memory
from pipeline.files.paths import is_ray_job
from spire_core.config.checks import hint
from spire_core.errors import SpireError

AddVerb = Callable[[Any], None]  # adds a verb to the subparsers of `spire`
USER_ERROR, INTERRUPTED = 2, 130
SWEEPS = ("sweep", "report")  # verbs that `python -m pipeline` lacks
HALF_LINE = 500  # characters that are kept of each half of a message


@dataclass(frozen=True)
class Answer:
    """The answer of a verb: a text for people, values for programs (`--json`), an exit code."""

    text: str
    values: dict[str, Any]
    exit_code: int = 0


def run_command(argv: Sequence[str] | None, verbs: Sequence[AddVerb]) -> int:
    """Run `spire` with these arguments (None: the process's own) and return its exit code.

    0: success. 1: a self-test, a trial or a claim failed, or entries still wait for their store.
    2: an error with a message of one sentence, such as a wrong setting. 130: interrupted.
    """
    _open_closed_streams()
    args = _parse(argv, verbs)
    hear_interrupts()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: see `_answered`
    return _answered(args)


def _answered(args: argparse.Namespace) -> int:
    """Run a verb, print its answer or what kept it from one, and return the exit code."""
    try:
        check_words(getattr(args, "words", ()))
        with contextlib.redirect_stdout(sys.stderr):  # for libraries that print
            answer: Answer = args.act(args)
        _print(_json_text(answer.values) if args.json else answer.text)
    except SpireError as error:
        say(f"spire {args.verb}: {one_line(str(error))}")
        return USER_ERROR
    except (OSError, MemoryError, RuntimeError) as error:  # of the machine: no right, space, memory
        if isinstance(error, RuntimeError) and not lacks_memory(error):
            raise
        reason = one_line(str(error)) or "too little memory"
        say(
            f"spire {args.verb}: expected files that can be used and memory enough, got {reason}: "
            "free some, or name another place"
        )
        return USER_ERROR
    except KeyboardInterrupt as interrupt:
        say(": ".join((f"spire {args.verb}", "interrupted", *map(str, interrupt.args))))
        return INTERRUPTED
    return answer.exit_code


def _open_closed_streams() -> None:
    """Open the standard streams that the caller has closed, before another file takes their place.

    What a library writes to them would go into that file.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            flags = os.O_RDONLY if mode == "r" else os.O_WRONLY
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode))


def _json_text(values: dict[str, Any]) -> str:
    from pipeline.files.masking import masked

    return json.dumps(masked(values), allow_nan=False)


def _print(text: str) -> None:
    """Print an answer to stdout, with codes for characters that its encoding lacks."""
    encoding = sys.stdout.encoding or "utf-8"
    shown = _shown(text).encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(shown, flush=True)
    except OSError as error:  # its rest would be written again as Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
            raise


def _shown(text: str) -> str:
    """Return a text of lines without secrets, and with control characters as their codes.

    A text may quote a stranger's, which the terminal must not interpret.
    """
    from pipeline.files.masking import mask

    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in mask(text))


def one_line(text: str) -> str:
    """Return a message as one line, as `_shown` has it; a long one loses its middle."""
    shown = _shown(" ".join(text.split()))  # masked before a cut hides that it is a URI
    return shown if len(shown) <= 2 * HALF_LINE else f"{shown[:HALF_LINE]}...{shown[-HALF_LINE:]}"


def say(text: str) -> None:
    """Print a message to stderr."""
    print(_shown(text), file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    """`names`: what a help text lists at its end, a title and a function that takes a while."""

    names: tuple[str, Callable[[], Sequence[str]]] | None = None

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def format_help(self) -> str:
        text = super().format_help()
        if self.names is None:
            return text
        title, find = self.names
        width = shutil.get_terminal_size().columns - 2
        lines = textwrap.wrap(", ".join(find()), width - 2, break_on_hyphens=False)
        return f"{text}\n{title}:\n" + "".join(f"  {line}\n" for line in lines)

    def error(self, message: str) -> NoReturn:
        if match := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            verb, verbs = match[1], re.findall(r"[\w-]+", match[2])  # all choices are verbs
            expected = f"expected a verb out of {', '.join(verbs)}"
            advice = f"type spire {verb}, or python -m sweeps" if verb in SWEEPS else ""
            message = f"{expected}, got {verb!r}: {advice or hint(verb, verbs)}"
        self.exit(USER_ERROR, f"{self.prog}: {one_line(message)}: see {self.prog} --help\n")


class _Version(argparse.Action):
    """Prints the versions of this project, Python and the packages that decide a result."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from pipeline.tracking.origin import versions

        texts = versions()
        own = texts.pop("spire")
        print(f"spire {own} ({', '.join(f'{k} {v}' for k, v in texts.items())})")
        parser.exit()


def parser_of(add_verbs: Sequence[AddVerb]) -> _Parser:
    """Return the parser of `spire` with these verbs."""
    parser = _Parser(prog="spire", description="Federated personalised diffusion models.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print versions and stop")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for add in add_verbs:
        add(verbs)
    return parser


def _parse(argv: Sequence[str] | None, add_verbs: Sequence[AddVerb]) -> argparse.Namespace:
    """Return the parsed arguments; other than with argparse alone, words may follow options."""
    parser = parser_of(add_verbs)
    complete(parser)
    args, rest = parser.parse_known_args(argv)
    verb = _verb_of(parser, args)
    if [word for word in rest if word.startswith("-") or "words" not in args]:
        setting = meant_setting(rest) if "words" in args else None
        how = f" (a setting is written {setting})" if setting else ""
        if option := meant_option(rest, verb._option_string_actions):
            how = f" (did you mean {option}?)"
        verb.error(f"unrecognized arguments: {' '.join(rest)}{how}")
    if rest:
        args.words = [*args.words, *rest]
    if fault := option_as_setting(getattr(args, "words", ()), verb._option_string_actions):
        verb.error(fault)
    return args


def _verb_of(parser: _Parser, args: argparse.Namespace) -> _Parser:
    """Return the parser of the verb that was typed, such as that of `spire data fetch`."""
    for action in parser._actions:
        if isinstance(action.choices, dict) and (name := getattr(args, action.dest, None)):
            return _verb_of(action.choices[name], args)
    return parser


def add_verb(verbs: Any, name: str, act: Any, text: str) -> argparse.ArgumentParser:
    """Return the parser of a new verb that answers with `act(args)`, as text or as JSON."""
    parser = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(act=act)
    parser.add_argument("--json", action="store_true", help="print one JSON object to stdout")
    return parser


def list_names(
    parser: argparse.ArgumentParser, title: str, find: Callable[[], Sequence[str]]
) -> None:
    """Let a parser's help end with names that are found when it is asked for."""
    assert isinstance(parser, _Parser)  # of every verb
    parser.names = title, find


def add_anew(parser: argparse.ArgumentParser) -> None:
    """Let the user deliver a run of another store to the present one."""
    text = "deliver all of a run that the present tracking store does not have, as a new run there"
    parser.add_argument("--anew", action="store_true", help=text)


def hear_interrupts() -> None:
    """In a Ray job, let SIGINT raise KeyboardInterrupt even if the head runs in a background.

    A shell makes its background processes ignore SIGINT. A job inherits that from its head, so that
    `ray job stop` would wait in vain and then kill it.
    """
    if is_ray_job() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
