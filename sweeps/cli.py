"""The command `spire` with the verbs of this package: `sweep` and `report`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from click import argument, option

import spire
from pipeline.cli.command import INTERRUPTED, Answer, verb
from pipeline.cli.main import main as pipeline_main
from pipeline.cli.words import Words, keys, offered, split_words
from pipeline.config.tracking import ui_text
from pipeline.runs.record import experiment_of
from spire_core.errors import SpireError

if TYPE_CHECKING:
    from sweeps.sweep import Outcome


NAMES = sorted(path.stem for path in Path(__file__).with_name("conf").glob("*.yaml"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run `spire` with these arguments (None: the process's own) and return its exit code."""
    return pipeline_main(argv, MORE_VERBS)


@verb(epilog=f"Sweeps by name: {', '.join(NAMES)}.")
@argument("file", metavar="FILE_OR_NAME", shell_complete=offered(lambda: NAMES))
@argument("words", nargs=-1, metavar="[KEY=VALUE]...", shell_complete=offered(keys))
@option("--dry-run", is_flag=True, help="Print the trials and what they need, and stop.")
@option("--retry-failed", is_flag=True, help="Try failed trials again as well.")
def sweep(file: str, words: Words, dry_run: bool, retry_failed: bool) -> Answer:
    """Run a sweep from a YAML file, or one of ours by name; the same command goes on with it.

    Settings are of the sweep, such as seeds=[0,1], or of every trial, such as client.lr=0.001.
    """
    if dry_run:
        return _dry_run(file, words, retry_failed)
    from sweeps.outcome_text import outcome_json, outcome_text

    outcome = spire.sweep(file, words, retry_failed=retry_failed)
    values = outcome_json(outcome)
    text = outcome_text(values) + _reported(outcome, values)
    code = 1 if values["num_failed"] else INTERRUPTED if values["num_unfinished"] else 0
    return Answer(text, values, code)


def _reported(outcome: "Outcome", values: dict[str, Any]) -> str:
    """Return the report of a sweep as text, or why there is none; "" if nothing has finished."""
    from sweeps.report.make import make_report

    if not (outcome.sweep.report and outcome.tracking.enabled and values["num_finished"]):
        return ""
    sweep = values["parent_run_id"] or values["name"]  # its folder may have been deleted meanwhile
    try:
        written = make_report(outcome.tracking, [sweep])
    except (SpireError, OSError) as error:  # the trials and their runs are there all the same
        return f"\n\nno report: {error}"
    values["artifacts"] = {"report": str(written.html)}
    where = ui_text(outcome.tracking, experiment_of(outcome.study.parent_run_dir))
    return f"\n\n{written.text()}\nlook at it all  {where}"


def _dry_run(file: str, words: Sequence[str], retry_failed: bool) -> Answer:
    from pipeline.cluster.actor_plan import machine_resources
    from pipeline.cluster.session import cluster
    from sweeps.design.config import load_study
    from sweeps.execution.study import Study
    from sweeps.outcome_text import plan_json, plan_text
    from sweeps.sweep import base_config

    settings, recorded = load_study(file, words)
    study = Study.of(settings, base_config(settings).tracking)
    if os.environ.get("RAY_ADDRESS"):
        with cluster() as available:
            values = plan_json(settings, recorded, study, available, retry_failed)
    else:
        values = plan_json(settings, recorded, study, machine_resources(), retry_failed)
    return Answer(plan_text(values), values)


@verb()
@argument("words", nargs=-1, metavar="[SWEEP | RUN]... [KEY=VALUE]...")
@option("--out", metavar="DIR", help="The folder (<root>/reports/NAME unless given).")
def report(words: Words, out: str | None) -> Answer:
    """Write tables and figures of a sweep, or of runs, out of the tracking store.

    They are named by name or id; without a name it is the last sweep. Settings are those of
    tracking.*.
    """
    names, settings = split_words(words)
    written = spire.report(names or "last", settings, out)
    return Answer(written.text(), written.values())


MORE_VERBS = (sweep, report)
