"""The command `spire`: its list of verbs."""

from collections.abc import Sequence

import click

from pipeline.cli.audit import audit
from pipeline.cli.clients import adapt, export, sample
from pipeline.cli.command import run_command
from pipeline.cli.data import data
from pipeline.cli.doctor import doctor
from pipeline.cli.run import resume, run
from pipeline.cli.sync import sync
from pipeline.cli.theory import theory

VERBS = (run, resume, adapt, sample, export, audit, data, theory, doctor, sync)


def main(argv: Sequence[str] | None = None, more_verbs: Sequence[click.Command] = ()) -> int:
    """Run `spire` as `run_command` does; `more_verbs` come from packages that build on this one."""
    return run_command(argv, (*VERBS, *more_verbs))
