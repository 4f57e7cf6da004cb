"""Errors of MLflow: which of them may pass, and requests that are repeated until they do.

Here too, mlflow is imported only inside functions.
"""

import re
import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.tracking.relay import Refusal

UNKNOWN = "RESOURCE_DOES_NOT_EXIST"
FINAL_CODES = {  # of MLflow's answers, those that no time changes
    "ALREADY_EXISTS",
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "NOT_IMPLEMENTED",
    "RESOURCE_ALREADY_EXISTS",
    UNKNOWN,
}
# MLflow calls a fault of its database a bad request; SQLAlchemy ends the text with a link to it.
FAULT = re.compile(r"https://sqlalche\.me/e/\w+/(\w+)")
INTEGRITY, DATA, PROGRAMMING = "gkpj", "9h9h", "f405"  # the faults that a statement itself has
RACED = "INSERT INTO datasets"  # another run has just written the same dataset
# Of a server that takes files. A proxy whose server starts again may not find one (404).
FINAL_STATUSES = {400, 405, 409, 411, 413, 414, 415, 422}
# The entry is at fault.
MALFORMED = (Refusal, KeyError, TypeError, AttributeError, ValueError, OverflowError)
T = TypeVar("T")
PAUSES_S = (0.1, 0.3, 1.0)  # between the tries of one request
QUICK_S = 2.0  # a request that took longer is not repeated here: its server may be hanging


def is_retryable(error: Exception) -> bool:
    """Return whether a request may succeed later; any error that is not known to be final.

    Retryable are a connection, a server, a database or an artifact store that fails, whatever its
    client raises, a password or a right that is missing, and a full disk.
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import HTTPError

    if isinstance(error, MlflowException):
        return error.error_code not in FINAL_CODES or _is_passing_fault(str(error))
    if isinstance(error, HTTPError) and error.response is not None:
        return error.response.status_code not in FINAL_STATUSES
    return isinstance(error, OSError) or not isinstance(error, MALFORMED)


def _is_passing_fault(text: str) -> bool:
    """Return whether a text is that of a database's fault which its statement did not cause."""
    fault = next(reversed(FAULT.findall(text)), None)
    is_raced = fault == INTEGRITY and RACED in text
    return is_raced or fault not in (None, INTEGRITY, DATA, PROGRAMMING)


def patiently(request: Callable[[], T]) -> T:
    """Return the answer to a request that can be repeated, after a few quick tries.

    Raises the last error, at once if it is final or if the request took long.
    """
    for pause_s in PAUSES_S:
        began = time.monotonic()
        try:
            return request()
        except Exception as error:
            if not is_retryable(error) or time.monotonic() - began > QUICK_S:
                raise
        time.sleep(pause_s)
    return request()
