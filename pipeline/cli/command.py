"""The frame of all verbs of the command `spire`: parsing, answers, errors and interrupts.

Stdout gets the answer alone; progress and messages go to stderr; both without secrets. Verbs import
torch, Ray and MLflow inside functions, so that `spire --help` and a tab answer at once.
"""

import contextlib
import functools
import json
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pipeline.federation.pool import lacks_memory
from pipeline.files.paths import is_ray_job, lasting, mask
from spire_core.errors import SpireError

USER_ERROR, INTERRUPTED = 2, 130
SWEEPS = ("sweep", "report")  # verbs that `python -m pipeline` lacks
HALF_LINE = 500  # characters that are kept of each half of a message
OPTIONS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

anew = click.option(
    "--anew", is_flag=True, help="Deliver the whole run to the present store, as a new one."
)


@dataclass(frozen=True)
class Answer:
    """The answer of a verb: a text for people, values for programs (`--json`), an exit code."""

    text: str
    values: dict[str, Any]
    exit_code: int = 0


def verb(**settings: Any) -> Callable[[Callable[..., Answer]], click.Command]:
    """Make a function that returns an answer a verb, whose help is the function's docstring.

    `settings`: of click's command.
    """

    def decorate(act: Callable[..., Answer]) -> click.Command:
        @click.option("--json", "is_json", is_flag=True, help="Print one JSON object to stdout.")
        @functools.wraps(act)
        def answered(is_json: bool, **options: Any) -> int:
            return _answered(functools.partial(act, **options), is_json)

        return click.command(**settings)(answered)

    return decorate


def command_of(verbs: Sequence[click.Command]) -> click.Group:
    """Return the command `spire` with these verbs."""
    version = click.Option(["--version"], help="Print versions and stop.", is_flag=True)
    version.is_eager, version.expose_value, version.callback = True, False, _version
    return click.Group(
        "spire",
        [*verbs],
        params=[version],
        help="Federated personalised diffusion models.",
        subcommand_metavar="VERB ...",
        context_settings=OPTIONS,
        no_args_is_help=False,
    )


def run_command(argv: Sequence[str] | None, verbs: Sequence[click.Command]) -> int:
    """Run `spire` with these arguments (None: the process's own) and return its exit code.

    0: success. 1: a self-test, a trial or a claim failed, or entries still wait for their store.
    2: an error with a message of one sentence, such as a wrong setting. 130: interrupted.
    """
    hear_interrupts()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: see `_answered`
    try:
        return command_of(verbs).main(argv, "spire", standalone_mode=False)
    except click.UsageError as error:
        say(one_line(_told(error)))
        return USER_ERROR
    except click.Abort:  # an interrupt before a verb has begun
        return INTERRUPTED


def _told(error: click.UsageError) -> str:
    """Return a mistake that click has found, and what to do."""
    path, message = error.ctx.command_path if error.ctx else "spire", error.format_message()
    advice = f"see {path} --help"
    if isinstance(error, click.NoSuchOption) and "." in error.option_name:
        advice = "write a setting as key=value, without dashes"
    if isinstance(error, click.NoSuchCommand) and error.command_name in SWEEPS:
        message, advice = error.message, f"type spire {error.command_name}, or python -m sweeps"
    return f"{path}: {message.rstrip('.')}: {advice}"


def _answered(act: Callable[[], Answer], is_json: bool) -> int:
    """Run a verb, print its answer or what kept it from one, and return the exit code."""
    path = click.get_current_context().command_path
    try:
        with contextlib.redirect_stdout(sys.stderr):  # for libraries that print
            answer = act()
        _print(json.dumps(_plain(answer.values)) if is_json else answer.text)
    except SpireError as error:
        say(f"{path}: {one_line(str(error))}")
        return USER_ERROR
    except (OSError, MemoryError, RuntimeError) as error:  # of the machine: no right, space, memory
        if isinstance(error, RuntimeError) and not lacks_memory(error):
            raise
        reason = one_line(str(error)) or "too little memory"
        say(
            f"{path}: expected files that can be used and memory enough, got {reason}: free some, "
            "or name another place"
        )
        return USER_ERROR
    except KeyboardInterrupt as interrupt:
        say(": ".join((path, "interrupted", *map(str, interrupt.args))))
        return INTERRUPTED
    return answer.exit_code


def _plain(value: Any) -> Any:
    """Return nested values as JSON has them, without secrets; a number is finite or None."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [*map(_plain, value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return mask(value) if isinstance(value, str) else value


def _print(text: str) -> None:
    """Print an answer to stdout, with codes for characters that its encoding lacks."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        print(_shown(text).encode(encoding, "backslashreplace").decode(encoding), flush=True)
    except OSError as error:  # its rest would be written again as Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
            raise


def _shown(text: str) -> str:
    """Return a text without secrets, and with codes for what a terminal would take for commands."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in mask(text))


def one_line(text: str) -> str:
    """Return a message as one line, as `_shown` has it; a long one loses its middle."""
    shown = _shown(" ".join(text.split()))  # masked before a cut hides that it is a URI
    return shown if len(shown) <= 2 * HALF_LINE else f"{shown[:HALF_LINE]}...{shown[-HALF_LINE:]}"


def say(text: str) -> None:
    """Print a message to stderr."""
    print(_shown(text), file=sys.stderr, flush=True)


def _version(ctx: click.Context, _: click.Parameter, is_asked: bool) -> None:
    """Print the versions of this project, Python and the packages that decide a result."""
    if is_asked:
        from pipeline.tracking.mlflow_session import versions

        texts = versions()
        own = texts.pop("spire")
        click.echo(f"spire {own} ({', '.join(f'{k} {v}' for k, v in texts.items())})")
        ctx.exit()


def hear_interrupts() -> None:
    """In a Ray job, let SIGINT raise KeyboardInterrupt even if the head runs in a background.

    A shell makes its background processes ignore SIGINT. A job inherits that from its head, so that
    `ray job stop` would wait in vain and then kill it.
    """
    if is_ray_job() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def png_path(path: str | Path) -> Path:
    """Return the absolute path of a PNG that is to be written, in a folder that exists."""
    png = lasting(path, "--out")
    png.parent.mkdir(parents=True, exist_ok=True)
    return png if png.suffix.lower() == ".png" else png.with_name(f"{png.name}.png")
