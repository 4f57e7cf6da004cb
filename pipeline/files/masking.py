"""Masks passwords before a text is shown or stored: those in URIs, and a given noise key."""

import re
from typing import Any

_SECRET = re.compile(r"(://[^\s/:@\"']*:)[^\s\"']*(?=@)|(noise_key=)[^\s\"']+")


def error_line(error: BaseException) -> str:
    """Return an error's message as one line, without passwords."""
    return mask(" ".join(str(error).split()) or repr(error))[:300]


def mask(text: str) -> str:
    """Return a text with `***` in place of the passwords of its URIs (`://user:***@host`)."""
    return _SECRET.sub(r"\1\2***", text)


def masked(values: Any) -> Any:
    """Return nested dictionaries, lists and tuples with all texts masked."""
    if isinstance(values, dict):
        return {key: masked(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [masked(value) for value in values]
    return mask(values) if isinstance(values, str) else values
