"""Arguments of the verbs that take a preset: its name, settings, and the data that it needs."""

import argparse
from collections.abc import Sequence

from pipeline.cli.command import (
    list_names,
    one_line,
    say,
)
from pipeline.cli.words import split_one
from pipeline.config.tracking import TrackingConfig, tracking_uri
from spire_core.errors import SpireError

DEFAULT_PRESET = "mnist-cpu"


def fetch_if_missing(name: str, root: str | None, source_dir: str | None) -> None:
    """Fetch a data set that is not stored on this machine, with a message."""
    from pipeline.data.fetch import fetch_if_missing

    fetch_if_missing(name, root, source_dir, say)


def check_source(name: str, source_dir: str | None) -> None:
    """Raise ConfigError if the folder of a data set's files holds other images."""
    from pipeline.data.fetch import check_source

    check_source(name, source_dir)


def warn_of_store(config: TrackingConfig) -> None:
    """Say that a tracking server does not answer; a dry run needs none, and a run does."""
    if not config.enabled or not tracking_uri(config).startswith(("http://", "https://")):
        return
    from pipeline.tracking.tracker import check_store

    try:
        check_store(config)
    except SpireError as error:
        say(f"a run would end at once: {one_line(str(error))}")


def preset_and_settings(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return the preset, or the default one, and the settings among the words."""
    preset, settings = split_one(words, "preset")
    return preset or DEFAULT_PRESET, settings


def add_preset(parser: argparse.ArgumentParser) -> None:
    """Add the arguments preset and settings."""
    text = f"a preset ({DEFAULT_PRESET} unless given) and settings such as client.lr=0.001"
    parser.add_argument("words", nargs="*", default=[], metavar="PRESET | key=value", help=text)
    list_names(parser, "presets", _preset_names)


def _preset_names() -> list[str]:
    from pipeline.config.load import preset_names

    return preset_names()
