"""Primary comparisons as a sweep has recorded them, on the runs that it planned then.

Seeds and settings that are added to a study later must not decide what it finds, nor add to the
number of its tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.config.load import build, read_text
from pipeline.config.schema import Config
from pipeline.results.params import AXIS
from pipeline.tracking.mlflow_queries import TrackedRun
from spire_core.errors import ConfigError
from sweeps.design.config import SweepConfig
from sweeps.design.planned import axis_keys, counting, planned_configs, run_of
from sweeps.primary import Primary, agree, primaries
from sweeps.report.choice import choosing_metric
from sweeps.report.groups import IGNORED, Group, group_runs, method_of, seed_of, varying
from sweeps.report.origins import SWEEP_FILE
from sweeps.report.primary import Finding, findings


@dataclass(frozen=True)
class Plan:
    """What a sweep's file says of its primary comparisons, before it runs.

    `seeds`: none if nobody knows them. `configs`: those of its trials on one seed; none of a search
    or of a file that this version refuses. `keys`: the settings on its axes.
    """

    compared: Sequence[Primary]
    seeds: Sequence[int]
    configs: Sequence[Config] = ()
    keys: frozenset[str] = frozenset()


def plan_of(sweep: SweepConfig) -> Plan:
    """Return the plan of a sweep; ConfigError if a trial's configuration is wrong."""
    configs = planned_configs(sweep) if sweep.primary else []
    keys = frozenset(axis_keys(sweep) if configs else ())
    return Plan(primaries(sweep.primary), sweep.seeds, configs, keys)


def recorded_findings(sweep_file: str, groups: Sequence[Group]) -> tuple[list[Finding], list[str]]:
    """Return the primary comparisons that a sweep's run recorded when it began, and notes.

    `sweep_file`: the sweep's settings as YAML; "" of a report without a sweep.
    """
    sweep = read_text(sweep_file, SWEEP_FILE) if sweep_file else {}
    try:
        plan = Plan(primaries(sweep.get("primary", ())), tuple(sweep.get("seeds", ())))
    except ConfigError as error:  # of an earlier version
        return [], [f"Primary comparisons are not among these tables: {error}."]
    notes = []
    try:
        plan = plan_of(build(SweepConfig, sweep)) if plan.compared else plan
    except ConfigError as error:  # likewise, or with plugins that are not here
        notes = [
            "Primary comparisons are not corrected for tasks that have not run, nor kept from "
            f"settings that were added later: {error}."
        ]
    found, num_out = planned_findings(plan, groups)
    if num_out and found:
        notes.append(
            f"Primary comparisons leave out {num_out} {'run' if num_out == 1 else 'runs'} on seeds "
            "or at settings that were added to the sweep after it had recorded these."
        )
    return found, notes


def planned_findings(plan: Plan, groups: Sequence[Group]) -> tuple[list[Finding], int]:
    """Return a plan's findings on the runs that it has, and how many others are left out."""
    meant = planned_groups(plan, groups)
    planned = [run_of(config) for config in plan.configs]
    found = findings(plan.compared, meant, choosing_metric(meant), planned, len(plan.seeds))
    return found, len(_runs(groups)) - len(_runs(meant))


def planned_groups(plan: Plan, groups: Sequence[Group]) -> list[Group]:
    """Return the groups of the runs that a plan has: one of its trials on one of its seeds.

    A run is known by the settings on the axes and those in which runs differ, but for those that
    never set runs apart, which rows do not have. Fingerprints would not do: they hold paths, which
    are other ones on another machine, and those of older versions hold fewer settings. So a folder
    on an axis tells no runs apart.
    """
    runs = _runs(groups)
    tags = {tag.removeprefix(AXIS) for run in runs for tag in run.tags if tag.startswith(AXIS)}
    keys = {key for key in (*plan.keys, *varying(runs), *tags) if not key.startswith(IGNORED)}
    trials = [(config.method.name, counting(config, keys)) for config in plan.configs]

    def is_planned(run: TrackedRun) -> bool:
        is_trial = not trials or any(
            method == method_of(run) and agree(run.params, own) for method, own in trials
        )
        return is_trial and (not plan.seeds or seed_of(run) in plan.seeds)

    return group_runs([run for run in runs if is_planned(run)])


def _runs(groups: Sequence[Group]) -> list[TrackedRun]:
    return [run for group in groups for run in group.runs]
