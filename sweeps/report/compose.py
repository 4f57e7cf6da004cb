"""What a report says of its runs, without a file written: answers, tables, figures and pictures.

Read `composed` first.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.config.tracking import TrackingConfig
from pipeline.tracking.mlflow_queries import TrackedRun
from sweeps.report.answers import answers_of
from sweeps.report.budgets import budget_pictures
from sweeps.report.choice import best_groups, choosing_metric
from sweeps.report.client_coverage import (
    client_coverage_answers,
    client_coverage_table,
    client_lines,
)
from sweeps.report.client_dots import client_pictures
from sweeps.report.clients import clients_of, controls_of, curves_of
from sweeps.report.contents import Report
from sweeps.report.controls import controls_table
from sweeps.report.coverage import coverage_answers, coverage_notes, coverage_table
from sweeps.report.coverage_dots import coverage_pictures
from sweeps.report.differences import (
    differences_table,
    setting_differences_table,
    within_methods_table,
)
from sweeps.report.epochs import epochs_table, rate_pictures
from sweeps.report.facts import facts_of, notes_of, rows_notes
from sweeps.report.figures import Picture, draw_all
from sweeps.report.finals import is_read
from sweeps.report.forest import primary_pictures
from sweeps.report.groups import Group
from sweeps.report.origins import origin_of, parameters_table
from sweeps.report.planes import plane_picture, plane_table
from sweeps.report.primary import primary_answers, primary_table
from sweeps.report.prompts import prompt_epochs_table, prompts_table
from sweeps.report.recorded import recorded_findings
from sweeps.report.runs import runs_table
from sweeps.report.samples import partition_pictures, sample_pictures
from sweeps.report.stretches import Stretches
from sweeps.report.tables import Table, method_tables, privacy_table, settings_table
from sweeps.report.words import words_of


@dataclass(frozen=True)
class Material:
    """What a report is made of.

    `parent`: the sweep's own run, if there is one; `runs`: all runs; `groups`: the finished
    experiments by setting. `stretches` has rows of runs that the store lacks.
    """

    config: TrackingConfig
    parent: TrackedRun | None
    runs: Sequence[TrackedRun]
    groups: Sequence[Group]
    stretches: Stretches

    @property
    def used(self) -> list[TrackedRun]:
        return [run for group in self.groups for run in group.runs]

    @cached_property
    def metric(self) -> str:
        """The metric by which each method's best setting is chosen."""
        return choosing_metric(self.groups)

    @cached_property
    def chosen(self) -> list[Group]:
        """Each method's best setting."""
        return best_groups(self.groups, self.metric)

    @property
    def tracked(self) -> list[Group]:
        """The chosen groups whose first run is in the store, with what it drew."""
        return [group for group in self.chosen if not is_read(group.runs[0])]


def composed(material: Material, name: str, folder: Path, rows: Path | None) -> Report:
    """Return the report of these runs, with the folder and the file of rows that it will have.

    ClusterError if the store does not answer.
    """
    config, metric, chosen = material.config, material.metric, material.chosen
    origin = origin_of(config, material.parent, material.used)
    found, unplanned = recorded_findings(origin.sweep_file, material.groups)
    clients = clients_of(config, chosen, material.stretches)
    lines = client_lines(chosen, clients)
    coverages = coverage_table(chosen), client_coverage_table(lines)
    of_coverage = coverage_answers(coverages[0], chosen) + client_coverage_answers(lines)
    of_methods, drawn = _of_methods(material, coverages)
    tables = [primary_table(found), *of_methods]
    tables += [runs_table(material.runs), parameters_table(material.groups)]
    of_clients = client_pictures(chosen, clients) + coverage_pictures(lines)
    of_budgets = budget_pictures(material.groups, metric)
    notes = notes_of(material.groups, chosen, metric) + coverage_notes(chosen) + unplanned
    return Report(
        name=name,
        folder=folder,
        parent_id=material.parent.run_id if material.parent else None,
        answers=[*primary_answers(found), *of_coverage, *answers_of(chosen, metric)],
        facts=facts_of(material.runs, material.used),
        notes=notes + rows_notes(material.runs, material.parent is not None),
        tables=[table for table in tables if table is not None],
        pictures=[*primary_pictures(found), *of_budgets, *of_clients, *drawn],
        samples=sample_pictures(config, material.tracked, clients),
        partitions=partition_pictures(config, material.tracked),
        origin=origin,
        words=words_of(chosen),
        rows=rows,
    )


def _of_methods(
    material: Material, coverages: Sequence[Table | None]
) -> tuple[list[Table | None], list[Picture]]:
    """Return the tables of methods and settings, and the figures of curves, costs and settings."""
    groups, metric, chosen = material.groups, material.metric, material.chosen
    curves = curves_of(material.config, groups, chosen)
    controls = controls_of(material.config, chosen, material.stretches)
    tables = [
        *method_tables(chosen),
        prompts_table(chosen),
        differences_table(groups, metric),
        *coverages,
        plane_table(groups, metric) or setting_differences_table(groups, metric),
        within_methods_table(groups, metric),
        controls_table(chosen, controls),
        epochs_table(groups, curves),
        prompt_epochs_table(chosen, curves),
        privacy_table(chosen),
        settings_table(groups) if len(groups) > len(chosen) else None,
    ]
    pictures = draw_all(groups, metric, curves) + rate_pictures(groups, curves)
    return tables, [*filter(None, (*pictures, plane_picture(groups, metric)))]
