"""The end of this process without Ray's own end, which may crash it or wait for ever."""

import atexit
import contextlib
import os
import sys

import ray

_exit_code: int | None = None


def leave_with(exit_code: int) -> None:
    """Let this process end with an exit code, without Ray's own end, which may crash it."""
    global _exit_code
    _exit_code = exit_code
    atexit.unregister(ray.shutdown)


def ends_as_usual() -> None:
    """Let this process end as any other: Ray has ended after all."""
    global _exit_code
    _exit_code = None


def ends_with(exit_code: int) -> None:
    """Note the exit code of a command that has ended, which its cluster's end could not know."""
    global _exit_code
    if _exit_code is not None:
        _exit_code = exit_code


@atexit.register
def leave() -> None:
    """End this process before Ray's library, which still waits for its cluster, crashes it."""
    if _exit_code is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(_exit_code)
