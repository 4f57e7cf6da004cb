"""The command `spire` with the verbs of this package: `sweep` and `report`."""

import argparse
from collections.abc import Sequence
from typing import Any

from pipeline.cli.command import (
    INTERRUPTED,
    Answer,
    add_verb,
    list_names,
    say,
)
from pipeline.cli.main import main as pipeline_main
from pipeline.cli.presets import warn_of_store
from pipeline.cli.words import allowed, split_words


def main(argv: Sequence[str] | None = None) -> int:
    """Run `spire` with these arguments (None: the process's own) and return its exit code."""
    return pipeline_main(argv, MORE_VERBS)


def sweep(args: argparse.Namespace) -> Answer:
    """Run what is left of a sweep, or with `--dry-run` say what it would be."""
    from sweeps.design.load import load_study

    settings, recorded = load_study(args.file, args.words)
    if args.dry_run:
        return _dry_run(settings, args.retry_failed)
    from sweeps.outcome_text import outcome_json, outcome_text
    from sweeps.sweep import run_sweep

    outcome = run_sweep(settings, say, args.retry_failed, recorded)
    values = outcome_json(outcome)
    text = outcome_text(values) + _reported(outcome, values)
    code = 1 if values["num_failed"] else INTERRUPTED if values["num_unfinished"] else 0
    return Answer(text, values, code)


def _reported(outcome: Any, values: dict[str, Any]) -> str:
    """Return the report of a sweep as text, or why there is none; "" if nothing has finished."""
    from pipeline.config.tracking import ui_text
    from pipeline.runs.record import experiment_of
    from spire_core.errors import SpireError
    from sweeps.report.make import make_report

    if not (outcome.sweep.report and outcome.tracking.enabled and values["num_finished"]):
        return ""
    sweep = values["parent_run_id"] or values["name"]  # its folder may have been deleted meanwhile
    try:
        written = make_report(outcome.tracking, [sweep])
    except (SpireError, OSError) as error:  # the trials and their runs are there all the same
        return f"\n\nno report: {error}"
    values["artifacts"] = {"report": str(written.html)}
    where = ui_text(outcome.tracking, experiment_of(outcome.ledger.parent_run_dir))
    return f"\n\n{written.text()}\nlook at it all  {where}"


def _dry_run(settings: Any, retry_failed: bool) -> Answer:
    import os

    from pipeline.cluster.actor_plan import machine_resources
    from pipeline.cluster.session import cluster
    from sweeps.design.effect import check_effects
    from sweeps.design.points import probes, trials
    from sweeps.execution.ledger import Ledger
    from sweeps.outcome_text import plan_json, plan_text
    from sweeps.sweep import base_config

    tracking = base_config(settings).tracking
    warn_of_store(tracking)
    ledger = Ledger.of(settings, tracking)
    planned = probes(settings) if settings.search == "optuna" else trials(settings)
    if ledger.is_new:
        check_effects(planned)
    if os.environ.get("RAY_ADDRESS"):
        with cluster() as available:
            values = plan_json(settings, planned, available, ledger, retry_failed)
    else:
        values = plan_json(settings, planned, machine_resources(), ledger, retry_failed)
    return Answer(plan_text(values), values)


def report(args: argparse.Namespace) -> Answer:
    """Write tables and figures of a sweep, or of some runs, out of the tracking store."""
    from pathlib import Path

    from pipeline.config.load import load_config
    from sweeps.report.make import make_report

    names, settings = split_words(args.words)
    tracking = load_config(None, allowed(settings, ("tracking.",))).tracking
    out = None if args.out is None else Path(args.out)
    written = make_report(tracking, names or ["last"], out)
    return Answer(written.text(), written.values())


def _add_sweep(verbs: Any) -> None:
    parser = add_verb(verbs, "sweep", sweep, "run a sweep; the same command again goes on with it")
    parser.add_argument("file", metavar="FILE_OR_NAME", help="a YAML file, or one of ours by name")
    text = "settings of the sweep, such as seeds=[0,1], or of every trial, such as client.lr=0.001"
    parser.add_argument("words", nargs="*", default=[], metavar="key=value", help=text)
    parser.add_argument(
        "--dry-run", action="store_true", help="print the trials and what they need, and stop"
    )
    list_names(parser, "sweeps by name", _sweep_names)
    parser.add_argument(
        "--retry-failed", action="store_true", help="try failed trials again as well"
    )


def _sweep_names() -> list[str]:
    from sweeps.design.load import sweep_names

    return sweep_names()


def _add_report(verbs: Any) -> None:
    text = "write tables and figures of a sweep, out of the tracking store"
    parser = add_verb(verbs, "report", report, text)
    text = "a sweep, or one or several runs, by name or id (the last sweep unless given)"
    parser.add_argument("words", nargs="*", default=[], metavar="SWEEP | RUN", help=text)
    parser.add_argument(
        "--out", metavar="DIR", help="the folder (<root>/reports/NAME unless given)"
    )


MORE_VERBS = (_add_sweep, _add_report)
