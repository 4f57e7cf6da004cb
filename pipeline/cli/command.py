"""The frame of all verbs of the command `spire`: parsing, answers, errors and interrupts.

Stdout gets the answer alone; progress and messages go to stderr; both without secrets. Verbs import
torch, Ray and MLflow inside functions, so that `spire --help` and a tab answer at once.
"""

import contextlib
import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from pipeline.cli.tables import listing
from pipeline.config.load import known_keys
from pipeline.config.schema import Config
from pipeline.files.paths import is_ray_job, lasting, mask
from spire_core.errors import SpireError, lacks_memory

USER_ERROR, INTERRUPTED = 2, 130


@dataclass(frozen=True)
class Answer:
    """The answer of a verb: a text for people, values for programs (`--json`), an exit code.

    Without a text the values are listed.
    """

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
            path = click.get_current_context().command_path
            try:
                with contextlib.redirect_stdout(sys.stderr):  # for libraries that print
                    answer = act(**options)
                _print(_json(answer.values) if is_json else answer.text or listing(answer.values))
                return answer.exit_code
            except SpireError as error:
                say(f"{path}: {one_line(str(error))}")
            except (OSError, MemoryError, RuntimeError) as error:  # no right, space or memory
                if isinstance(error, RuntimeError) and not lacks_memory(error):
                    raise
                reason = one_line(str(error)) or "too little memory"
                say(f"{path}: expected files that can be used and memory enough, got {reason}")
            except KeyboardInterrupt as interrupt:
                say(": ".join((path, "interrupted", *map(str, interrupt.args))))
                return INTERRUPTED
            return USER_ERROR

        return click.command(**settings)(answered)

    return decorate


def command_of(verbs: Sequence[click.Command]) -> click.Group:
    """Return the command `spire` with these verbs."""
    group = click.Group(
        "spire",
        [*verbs],
        help="Federated personalised diffusion models.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        no_args_is_help=False,
    )
    return click.version_option(package_name="spire-diffusion")(group)


def run_command(argv: Sequence[str] | None, verbs: Sequence[click.Command]) -> int:
    """Run `spire` with these arguments (None: the process's own) and return its exit code.

    0: success. 1: a self-test, a trial or a claim failed, or entries still wait for their store.
    2: an error with a message of one sentence, such as a wrong setting. 130: interrupted.
    """
    if is_ray_job() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # A job inherits this from a head that runs in a shell's background: `ray job stop` would
        # wait in vain and then kill it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: see `verb`
    try:
        return command_of(verbs).main(argv, "spire", standalone_mode=False)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "spire"
        advice = f"see {path} --help"
        if isinstance(error, click.NoSuchOption):
            name = error.option_name.strip("-").replace("-", "_")
            near = next((key for key in known_keys(Config) if name in key), None)
            told = f", such as {near}=VALUE" if near else " and a preset as a word"
            advice = f"write a setting as key=value{told}; {advice}"
        say(one_line(f"{path}: {error.format_message().rstrip('.')}: {advice}"))
        return USER_ERROR
    except click.Abort:  # an interrupt before a verb has begun
        return INTERRUPTED


def _json(values: dict[str, Any]) -> str:
    """Return values as JSON, with null for a number that is not finite."""
    return json.dumps(json.loads(json.dumps(values), parse_constant=lambda _: None))


def _print(text: str) -> None:
    """Print an answer to stdout."""
    try:
        print(mask(text), flush=True)
    except OSError as error:  # its rest would be written again as Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
            raise


def one_line(text: str) -> str:
    """Return a message as one line."""
    return " ".join(text.split())


def say(text: str) -> None:
    """Print a message to stderr."""
    print(mask(text), file=sys.stderr, flush=True)


def png_path(path: str | Path) -> Path:
    """Return the absolute path of a PNG that is to be written, in a folder that exists."""
    png = lasting(path, "--out")
    png.parent.mkdir(parents=True, exist_ok=True)
    return png if png.suffix.lower() == ".png" else png.with_name(f"{png.name}.png")
