"""Whether RAY_ADDRESS can be that of a head, and whether anybody answers there."""

import os
import socket

from spire_core.errors import ClusterError

ANSWER_S = 10.0  # the wait for a first answer


def check_address() -> None:
    """Raise ClusterError for an address of Ray that is none of a head, or does not answer."""
    address = os.environ.get("RAY_ADDRESS", "")
    scheme, sep, _ = address.partition("://")
    if not sep:
        _check_answer(address)
        return
    if scheme == "ray":
        other = "ray:// belongs to Ray's client, which runs do without"
    else:
        other = "the dashboard's is for `ray job submit`"
    raise ClusterError(
        f"expected RAY_ADDRESS as the HOST:PORT of a Ray head, got {address}: its port is 6379 "
        f"unless `ray start` was given another, and {other}"
    )


def _check_answer(address: str) -> None:
    """Raise ClusterError if nobody listens at HOST:PORT; Ray itself would ask for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        return  # none, or "auto"
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except (OSError, OverflowError, ValueError) as error:  # ValueError: neither host nor port
        raise ClusterError(
            f"expected a Ray head at RAY_ADDRESS={address}, got no answer ({error}): start it with "
            "`ray start --head`, or unset RAY_ADDRESS"
        ) from error
