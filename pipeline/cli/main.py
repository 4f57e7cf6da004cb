"""The command `spire`: its list of verbs, each defined in a file of its own.

The verbs import torch, Ray, MLflow and matplotlib inside functions, so that `spire --help` answers
at once.
"""

from collections.abc import Sequence

from pipeline.cli.audit import add_audit
from pipeline.cli.clients import add_adapt, add_sample
from pipeline.cli.command import AddVerb, run_command
from pipeline.cli.data import add_data
from pipeline.cli.doctor import add_doctor
from pipeline.cli.export import add_export
from pipeline.cli.run import add_resume, add_run
from pipeline.cli.sync import add_sync
from pipeline.cli.theory import add_theory

VERBS: tuple[AddVerb, ...] = (add_run, add_resume, add_adapt, add_sample, add_export, add_audit)
VERBS += (add_data, add_theory, add_doctor, add_sync)


def main(argv: Sequence[str] | None = None, more_verbs: Sequence[AddVerb] = ()) -> int:
    """Run `spire` as `run_command` does; `more_verbs` come from packages that build on this one."""
    return run_command(argv, (*VERBS, *more_verbs))
