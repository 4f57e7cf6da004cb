"""MLflow's own settings, in the environment: no messages, and how long a request waits.

Here too, mlflow is imported only inside functions.
"""

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

TIMEOUT, RETRIES = "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # An unanswered request is given up soon: the relay knows better when to try again.
    TIMEOUT: "20",
    RETRIES: "0",
}
FIRST_CONTACT = {TIMEOUT: "10", RETRIES: "1"}
FILE_S = 120  # the wait for the answer to a file, MLflow's own; a larger one has longer
BYTES_PER_S = 1_000_000  # the pace of a server that passes a file on before it answers
_lent: dict[str, str] = {}  # the values that `_instead` has set last


def quiet_mlflow() -> None:
    """Import mlflow without telemetry and without messages about creating a database."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    import mlflow  # noqa: F401  (it sets its loggers' levels when it is imported)

    for name in ("mlflow", "alembic"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))
    # This logger repeats, as a traceback, each database error that is raised as well.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


def soon() -> contextlib.AbstractContextManager[None]:
    """Shorten the time-outs for a first contact, except those that the user has set."""
    return _instead(FIRST_CONTACT)


def time_for(path: Path) -> contextlib.AbstractContextManager[None]:
    """Give requests the time that a file, or the largest one of a folder, takes to be passed on.

    A server before another store answers when that one has the file. A time-out that the user has
    set stays.
    """
    files = [path, *path.rglob("*")]
    most = max((file.stat().st_size for file in files if file.is_file()), default=0)
    return _instead({TIMEOUT: str(FILE_S + most // BYTES_PER_S)})


@contextlib.contextmanager
def _instead(values: Mapping[str, str]) -> Iterator[None]:
    """Set these in place of those of `QUIET` that the user has left as they are.

    All threads see them: one may for a moment have the time-out of another.
    """
    known = {key: (QUIET[key], _lent.get(key, QUIET[key])) for key in values}
    ours = {key: value for key, value in values.items() if os.environ.get(key) in known[key]}
    _lent.update(ours)
    os.environ.update(ours)
    try:
        yield
    finally:
        os.environ.update({key: QUIET[key] for key in ours})


@contextlib.contextmanager
def without_retries() -> Iterator[None]:
    """Let no request be repeated in the block, whatever the user has set."""
    before = os.environ[RETRIES]
    os.environ[RETRIES] = "0"
    try:
        yield
    finally:
        os.environ[RETRIES] = before
