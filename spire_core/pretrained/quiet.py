"""Warnings of diffusers kept back where their causes become errors of our own."""

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def unwarned() -> Iterator[None]:
    """Let diffusers log errors alone, until the end of the block."""
    log = logging.getLogger("diffusers")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
