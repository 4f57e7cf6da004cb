"""Writes docs/cli.md, the options of every verb, out of the command itself.

python benchmarks/cli_page.py
"""

import argparse
import os
from pathlib import Path
from typing import Any

from pipeline.cli.command import parser_of
from pipeline.cli.main import VERBS
from sweeps.cli import MORE_VERBS

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
WIDTH = "100"
HEAD = """# The command

All options of all verbs, as `spire VERB --help` prints them (`benchmarks/cli_page.py` writes
this page). Exit codes are in [cluster.md](cluster.md#exit-codes), settings (`key=value`) in
[settings.md](settings.md).

`eval "$(register-python-argcomplete spire)"` in bash or zsh, with the virtual environment active,
lets a tab complete verbs, options, presets, sweeps, settings and the names of runs.
`spire --version` prints the versions of SPIRE, Python, torch, Ray and MLflow.
"""


def page() -> str:
    """Return the page."""
    os.environ["COLUMNS"] = WIDTH
    found = [HEAD, *_sections(parser_of((*VERBS, *MORE_VERBS)))]
    return "\n".join(found)


def _sections(parser: argparse.ArgumentParser) -> list[str]:
    """Return a section of each verb that takes no further verb."""
    below = [action for action in parser._actions if isinstance(action.choices, dict)]
    if not below:
        return [f"## {parser.prog}\n\n```\n{parser.format_help().strip()}\n```\n"]
    verbs: dict[str, Any] = dict(below[0].choices)  # type: ignore[arg-type]
    return [section for verb in verbs.values() for section in _sections(verb)]


if __name__ == "__main__":
    PAGE.write_text(page())
