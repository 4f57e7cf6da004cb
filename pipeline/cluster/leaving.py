"""The end of this process without Ray's own end, which may crash it or wait for ever."""

import atexit
import contextlib
import gc
import io
import os
import sys

from spire_core.errors import ClusterError

_exit_code: int | None = None
_is_command = False  # a script has handlers and files of its own


def leave_with(exit_code: int) -> None:
    """Let this process end with an exit code, without Ray's own end, which may crash it."""
    import ray  # which has been imported long before

    global _exit_code
    _exit_code = exit_code
    atexit.unregister(ray.shutdown)
    atexit.unregister(_leave_at_exit)
    atexit.register(_leave_at_exit)  # the newest: it comes before those that it runs itself


def ends_as_usual() -> None:
    """Let this process end as any other: Ray has ended after all."""
    global _exit_code
    _exit_code = None


def ends_with(exit_code: int) -> None:
    """Note the exit code of a command that has ended, which its cluster's end could not know."""
    global _exit_code, _is_command
    _is_command = True
    if _exit_code is not None:
        _exit_code = exit_code


def check_stays() -> None:
    """Raise ClusterError if this process has to end, since it has lost its Ray."""
    if _exit_code is not None:
        raise ClusterError(
            "expected a process whose Ray is not lost, got one that has lost it, and that Ray's "
            "library ends soon: start a new process, where spire.resume goes on"
        )


def leave() -> None:
    """End this process before Ray's library, which still waits for its cluster, crashes it."""
    if _exit_code is not None:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(_exit_code)


def _leave_at_exit() -> None:
    """Leave; a script that goes on after the loss has all of its other handlers and files first."""
    if _exit_code is not None and not _is_command:
        atexit.unregister(_leave_at_exit)
        atexit._run_exitfuncs()
        for file in gc.get_objects():
            if issubclass(type(file), io.IOBase):
                with contextlib.suppress(Exception):  # closed, or its reader is gone
                    file.flush()
    leave()
