"""Errors of MLflow: which of them may pass, and requests that are repeated until they do.

Here too, mlflow is imported only inside functions.
"""

import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.tracking.relay import Refusal

FINAL_CODES = {  # of MLflow's answers, those that no time changes
    "ALREADY_EXISTS",
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "NOT_IMPLEMENTED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
}
BUSY = "QueuePool limit"  # a busy database, which MLflow calls a bad request
RACED = ("IntegrityError", "INSERT INTO datasets")  # another run has just written the same dataset
FINAL_STATUSES = {400, 404, 405, 409, 411, 413, 414, 415, 422}  # of a server that takes files
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
        is_passing = BUSY in str(error) or all(word in str(error) for word in RACED)
        return is_passing or error.error_code not in FINAL_CODES
    if isinstance(error, HTTPError) and error.response is not None:
        return error.response.status_code not in FINAL_STATUSES
    return isinstance(error, OSError) or not isinstance(error, MALFORMED)


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
