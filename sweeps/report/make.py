"""`spire report`, top to bottom: load runs out of MLflow, group, tabulate, draw, write, attach.

Read `make_report` first. Its only source is the tracking store.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.cli.command import one_line
from pipeline.cli.tables import aligned
from pipeline.config.safe_yaml import read_plain
from pipeline.config.tracking import TrackingConfig, tracking_root
from pipeline.results.metric_names import CONTROLS_TABLE, COPIES_TAGS
from pipeline.tracking.mlflow_queries import (
    TrackedRun,
    artifact_text,
    attach,
    histories,
    sweep_runs,
    table_rows,
)
from spire_core.config.method import find_method
from spire_core.errors import RunError
from sweeps.primary import Primary, primaries
from sweeps.report.answers import answers_of
from sweeps.report.budgets import budget_pictures
from sweeps.report.controls import controls_table
from sweeps.report.differences import (
    differences_table,
    runs_table,
    setting_differences_table,
    within_methods_table,
)
from sweeps.report.epochs import epochs_table, rate_pictures
from sweeps.report.facts import facts_of, left_out, notes_of
from sweeps.report.figures import FORGETTING, KID_ROUNDS, OVERFITTING, draw_all
from sweeps.report.files import Report, make_folder, report_json, write_report
from sweeps.report.groups import Group, best_groups, choosing_metric, group_runs, method_of
from sweeps.report.planes import plane_picture, plane_table
from sweeps.report.primary import findings, primary_answers, primary_table
from sweeps.report.prompts import EPOCHS as PROMPT_EPOCHS
from sweeps.report.prompts import prompt_epochs_table, prompts_table
from sweeps.report.rows import write_rows
from sweeps.report.tables import Table, cell_text, method_tables, privacy_table, settings_table

__all__ = ["Report", "make_report", "report_json", "report_text"]

UP, DOWN, DROPPED = "comm/up_bytes", "comm/down_bytes", "pretrain/dropped"
DRAWN = (*OVERFITTING, KID_ROUNDS, *FORGETTING, *(key for _, key in PROMPT_EPOCHS))
SWEEP_FILE = "config/sweep.yaml"  # an artifact of a sweep's own run
TERMINAL = ("KID, last round", "KID before", "KID after", "TV after", "held-out after")


def make_report(
    config: TrackingConfig, words: Sequence[str], out: Path | None = None, rows: Path | None = None
) -> Report:
    """Write the report of a sweep or of runs, attach it to the sweep, and return it.

    `words` as in `sweep_runs`. It lies in `out`, or in `reports/<name>` under the tracking root.
    `rows`: a file for each client's scores (`write_rows`).
    RunError if there is no such run or none has finished; ConfigError if its folder cannot be
    written; ClusterError if the store does not answer, or does not take the report.
    """
    # 1. Load.
    parent, runs = sweep_runs(config, words)
    finished = [run for run in runs if run.status == "FINISHED" and method_of(run)]
    if not finished:
        raise RunError(
            f"expected a finished experiment in {' '.join(words)!r}, got "
            f"{left_out(runs, []) or 'no run'}: wait for one, or name another sweep"
        )
    name = parent.name if parent else finished[0].run_id[:8]
    folder = make_folder(out or tracking_root(config) / "reports" / _file_name(name))
    # 2. Group, and read the curves.
    groups = group_runs([_with_costs(config, run) for run in finished])
    metric = choosing_metric(groups)
    chosen = best_groups(groups, metric)
    found = findings(_primaries(config, parent), groups, metric)
    curves = _curves(config, groups, chosen)
    # 3. Tables.
    tables: list[Table | None] = [primary_table(found), *method_tables(chosen)]
    tables += [prompts_table(chosen)]
    tables += [differences_table(groups, metric)]
    plane = plane_table(groups, metric)
    tables += [plane or setting_differences_table(groups, metric)]
    tables += [within_methods_table(groups, metric)]
    tables += [controls_table(chosen, _controls(config, chosen))]
    tables += [epochs_table(groups, curves), prompt_epochs_table(chosen, curves)]
    tables += [privacy_table(chosen)]
    tables += [settings_table(groups) if len(groups) > len(chosen) else None, runs_table(runs)]
    # 4. Figures.
    pictures = draw_all(groups, metric, curves) + rate_pictures(groups, curves)
    pictures += budget_pictures(groups, metric)
    pictures += [] if (drawn := plane_picture(groups, metric)) is None else [drawn]
    # 5. Write and attach.
    report = Report(
        name,
        folder,
        parent.run_id if parent else None,
        [*primary_answers(found), *answers_of(chosen, metric)],
        facts_of(runs, [run for group in groups for run in group.runs]),
        notes_of(groups, chosen, metric),
        [table for table in tables if table is not None],
        pictures,
        None if rows is None else write_rows(config, groups, rows),
    )
    files = write_report(report)
    if parent:
        attach(config, parent.run_id, folder, files)
    return report


def _primaries(config: TrackingConfig, parent: TrackedRun | None) -> list[Primary]:
    """Return the primary comparisons of a sweep, as its run recorded them when it began."""
    text = parent and artifact_text(config, parent.run_id, SWEEP_FILE)
    return primaries(read_plain(text, SWEEP_FILE).get("primary", ())) if text else []


def _curves(
    config: TrackingConfig, groups: Sequence[Group], chosen: Sequence[Group]
) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """Return all runs' curves of adaptation; of the chosen groups' runs, all that is drawn."""
    chosen_ids = {run.run_id for group in chosen for run in group.runs}
    return {
        run.run_id: histories(
            config,
            run.run_id,
            DRAWN if run.run_id in chosen_ids else OVERFITTING,
        )
        for group in groups
        for run in group.runs
    }


def _controls(config: TrackingConfig, chosen: Sequence[Group]) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of the chosen groups' runs that have controls."""
    runs = [run for group in chosen for run in group.runs]
    return {
        run.run_id: table_rows(config, run.run_id, CONTROLS_TABLE)
        for run in runs
        if run.params.get("eval.controls") == str(True)
    }


def _file_name(name: str) -> str:
    """Return a sweep's name as that of a folder."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "report"


def _with_costs(config: TrackingConfig, run: TrackedRun) -> TrackedRun:
    """Return a run with what it sent among its final numbers: kB per client and round, MB in all.

    A client that is in no average counts in no round. A method without pre-training sends nothing.
    With them are the numbers of copies, which are tags.
    """
    copies = {key: float(run.tags[tag]) for tag, key in COPIES_TAGS.items() if tag in run.tags}
    method = find_method(method_of(run) or "")
    if method is not None and not method.is_federated:
        return replace(run, finals={**run.finals, **copies, "comm/total_mb": 0.0})
    sent_at = histories(config, run.run_id, (UP, DOWN, DROPPED))
    sent = {key: [value for _, value in history] for key, history in sent_at.items()}
    cohort = int(run.params.get("federation.cohort_size", 0))
    costs = {}
    if sent[UP]:
        costs["comm/total_mb"] = (sum(sent[UP]) + sum(sent[DOWN])) / 1e6
        if (num_sent := cohort * len(sent[UP]) - sum(sent[DROPPED])) > 0:
            costs["comm/up_kb_per_client_round"] = sum(sent[UP]) / num_sent / 1e3
    return replace(run, finals={**run.finals, **costs, **copies})


def report_text(report: Report) -> str:
    """Return the report for a terminal: methods, differences against SPIRE, the page's path.

    Names may come from strangers; each is shown on one line without control characters.
    """
    parts = [one_line(f"{report.name}: {report.facts['Runs']}")]
    parts.append(_methods_text(report))
    differences = report.table("differences")
    if differences is not None:
        parts.append("minus SPIRE on the same seeds (below 0: better than SPIRE)")
        rows = [[cell_text(cell) for cell in row] for row in differences.rows]
        parts.append(_aligned(differences.columns, rows))
    parts.append("\n".join(f"note      {one_line(note)}" for note in report.notes))
    attached = f", attached to run {report.parent_id[:8]}" if report.parent_id else ""
    rows = f"\nrows      {report.rows}" if report.rows else ""
    return "\n\n".join([*parts, f"page      {report.html}{attached}{rows}"])


def _methods_text(report: Report) -> str:
    """Return the methods' main columns, which stand in two of the tables, side by side."""
    merged: dict[tuple[str, ...], dict[str, str]] = {}
    columns: list[str] = []
    for name in ("pretraining", "new_clients"):
        table = report.table(name)
        if table is None:
            continue
        place = table.columns.index("n") + 1
        wanted = [c for c in table.columns[place:] if c in TERMINAL]
        columns = columns or list(table.columns[:place])
        columns += [c for c in wanted if c not in columns]
        for row in table.rows:
            texts = dict(zip(table.columns, map(cell_text, row), strict=True))
            merged.setdefault(tuple(texts[c] for c in table.columns[:place]), {}).update(texts)
    return _aligned(
        columns, [[texts.get(column, "-") for column in columns] for texts in merged.values()]
    )


def _aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return aligned([*map(one_line, columns)], [[*map(one_line, row)] for row in rows])
