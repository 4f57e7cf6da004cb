"""Ports for servers that start later, or again, at an address that is known before.

Linux gives a port out of a range of its own to every connection, and to sockets that ask for any.
A port from there may be another process's by the time the server starts.
"""

import contextlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

GIVEN_AWAY = Path("/proc/sys/net/ipv4/ip_local_port_range")
PORTS = range(20_000, 60_000)  # Ray's workers have those below


def free_ports(num: int) -> list[int]:
    """Return ports of this machine that nobody listens at, nor is given."""
    with contextlib.ExitStack() as stack:
        found: list[int] = []
        for port in _candidates():
            probe = stack.enter_context(socket.socket())
            with contextlib.suppress(OSError):  # somebody has it
                probe.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == num:
                return found
    raise OSError(f"expected {num} free ports, got {len(found)}")


def _candidates() -> Iterator[int]:
    """Yield ports in an order that differs between processes."""
    try:
        first, last = map(int, GIVEN_AWAY.read_text().split())
    except FileNotFoundError:  # another system
        first, last = PORTS.stop, PORTS.stop
    ports = [port for port in PORTS if not first <= port <= last] or list(PORTS)
    yield from random.SystemRandom().sample(ports, len(ports))
