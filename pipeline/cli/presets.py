"""What verbs that take a preset have in common."""

import argparse
from collections.abc import Sequence

from pipeline.cli.command import (
    say,
    split_one,
)

DEFAULT_PRESET = "mnist-cpu"


def fetch_if_missing(name: str, root: str | None, source_dir: str | None) -> None:
    """Get a data set that is not on this machine, and say so."""
    from pipeline.data.fetch import fetch_if_missing

    fetch_if_missing(name, root, source_dir, say)


def preset_and_settings(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the preset among what was typed, or the usual one, and the settings."""
    preset, settings = split_one(words, "preset")
    return preset or DEFAULT_PRESET, settings


def add_preset(parser: argparse.ArgumentParser) -> None:
    """Add a preset and settings to what can be typed."""
    text = f"a preset ({DEFAULT_PRESET} unless given) and settings such as client.lr=0.001"
    parser.add_argument("words", nargs="*", default=[], metavar="PRESET | key=value", help=text)
