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
from sweeps.report.choice import best_groups, choosing_metric
from sweeps.report.client_dots import client_pictures
from sweeps.report.clients import clients_of, controls_of, curves_of
from sweeps.report.contents import Report
from sweeps.report.controls import controls_table
from sweeps.report.differences import (
    differences_table,
    setting_differences_table,
    within_methods_table,
)
from sweeps.report.epochs import epochs_table, rate_pictures
from sweeps.report.facts import facts_of, notes_of
from sweeps.report.figures import Picture, draw_all
from sweeps.report.forest import primary_pictures
from sweeps.report.groups import Group
from sweeps.report.origins import origin_of, parameters_table
from sweeps.report.primary import primary_answers, primary_table
from sweeps.report.prompts import prompt_epochs_table, prompts_table
from sweeps.report.recorded import recorded_findings
from sweeps.report.runs import runs_table
from sweeps.report.samples import partition_pictures, sample_pictures
from sweeps.report.tables import Table, method_tables, privacy_table, settings_table
from sweeps.report.words import words_of


@dataclass(frozen=True)
class Material:
    """What a report is made of.

    `parent`: the sweep's own run, if there is one; `runs`: all runs; `groups`: the finished
    experiments by setting.
    """

    config: TrackingConfig
    parent: TrackedRun | None
    runs: Sequence[TrackedRun]
    groups: Sequence[Group]

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


def composed(material: Material, name: str, folder: Path) -> Report:
    """Return the report of these runs, with the folder that it will have.

    ClusterError if the store does not answer.
    """
    config, metric, chosen = material.config, material.metric, material.chosen
    origin = origin_of(config, material.parent, material.used)
    found, unplanned = recorded_findings(origin.sweep_file, material.groups)
    clients = clients_of(config, chosen)
    of_methods, drawn = _of_methods(material)
    tables = [primary_table(found), *of_methods]
    tables += [runs_table(material.runs), parameters_table(material.groups)]
    return Report(
        name=name,
        folder=folder,
        parent_id=material.parent.run_id if material.parent else None,
        answers=[*primary_answers(found), *answers_of(chosen, metric)],
        facts=facts_of(material.runs, material.used),
        notes=notes_of(material.groups, chosen, metric) + unplanned,
        tables=[table for table in tables if table is not None],
        pictures=[*primary_pictures(found), *client_pictures(chosen, clients), *drawn],
        samples=sample_pictures(config, chosen, clients),
        partitions=partition_pictures(config, chosen),
        origin=origin,
        words=words_of(chosen),
    )


def _of_methods(material: Material) -> tuple[list[Table | None], list[Picture]]:
    """Return the tables of methods and settings, and the figures of curves, costs and settings."""
    groups, metric, chosen = material.groups, material.metric, material.chosen
    curves = curves_of(material.config, groups, chosen)
    controls = controls_of(material.config, chosen)
    tables = [
        *method_tables(chosen),
        prompts_table(chosen),
        differences_table(groups, metric),
        setting_differences_table(groups, metric),
        within_methods_table(groups, metric),
        controls_table(chosen, controls),
        epochs_table(groups, curves),
        prompt_epochs_table(chosen, curves),
        privacy_table(chosen),
        settings_table(groups) if len(groups) > len(chosen) else None,
    ]
    pictures = draw_all(groups, metric, curves) + rate_pictures(groups, curves)
    return tables, pictures
