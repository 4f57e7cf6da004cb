"""Masks passwords in addresses before they are shown or stored."""

import re

_PASSWORD = re.compile(
    r"(://)(?:[^/\s\"']+|[^/:\s\"']*:(?!\d+/)[^\s\"']*)@"  # databases allow / in a password
    r"|([?&;](?:password|passwd|pwd|token|secret)=)[^\s\"'&;]+",
    re.IGNORECASE,
)


def mask(text: str) -> str:
    """Return a text with the `user:password@` and `?password=` of its URIs replaced by `***`."""
    return _PASSWORD.sub(lambda m: f"{m[1]}***@" if m[1] else f"{m[2]}***", text)
