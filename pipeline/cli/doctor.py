"""The verb `spire doctor`."""

import argparse
from typing import Any

from pipeline.cli.command import Answer, add_verb


def doctor(args: argparse.Namespace) -> Answer:
    """Describe this machine: devices, packages and data, and how to get the missing ones."""
    from pipeline.cli.examine import doctor_text, examine

    state = examine(args.metrics)
    return Answer(doctor_text(state), state, 0 if state["ok"] else 1)


def add_doctor(verbs: Any) -> None:
    """Add the verb `doctor`."""
    parser = add_verb(verbs, "doctor", doctor, "say what would run where and what is missing")
    text = "check KID and the extractors on the data sets that are here; exit code 1 if that fails"
    parser.add_argument("--metrics", action="store_true", help=text)
