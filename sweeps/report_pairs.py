"""Differences against SPIRE on the same seeds, and the list of runs: two more of the tables.

A pair is two runs on one seed and one partition. They are compared twice: each method at its own
best setting, and both at the same setting (the mean over shared settings of each seed, so that the
interval is over seeds alone). Settings of `method.*` belong to a method and need not agree.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

from pipeline.diagnosis import DIAGNOSIS
from pipeline.tracked_runs import TrackedRun
from sweeps.report_groups import (
    OWN,
    Group,
    Pair,
    Values,
    best,
    best_groups,
    by_method,
    label,
    method_of,
    sortable,
    tasks_of,
)
from sweeps.report_stats import Estimate, estimate, paired, verdict
from sweeps.report_tables import Cell, Table

REFERENCE = "spire"
OWN_BEST, SAME = "own best settings", "same settings"
COMPARED = (
    ("new clients: KID after", "final/adapt_kid_after"),
    ("new clients: TV after", "final/adapt_tv_after"),
    ("new clients: held-out after", "final/adapt_heldout_after"),
    ("pre-training: KID, last round", "final/pretrain_kid_mean"),
)
CAPTION = (
    "Each method minus SPIRE on the same seeds, mean over pairs and 95 % interval; below zero the "
    "method's score is lower, which is better for all of these. Lower or higher: only where the "
    "interval excludes zero. Several comparisons at once: one in twenty intervals misses by chance."
)
BY_SETTING = (
    "Each method minus SPIRE on new clients' final KID at each of SPIRE's settings, paired on "
    "seeds, each at its best rate of adaptation. A method that was not varied in a setting stands "
    "as it is."
)


def differences_table(groups: Sequence[Group], chosen_by: str) -> Table | None:
    """Return the paired differences; None without SPIRE or without any other method."""
    rows: list[tuple[Cell, ...]] = []
    has_settings, has_task = (any(getattr(g, at) for g in groups) for at in ("setting", "task"))
    for task in tasks_of(groups):
        here = [group for group in groups if group.task == task]
        for method in by_method(here):
            if method == REFERENCE:
                continue
            for metric, key in COMPARED:
                found = {OWN_BEST: own_best_difference(here, method, key, chosen_by)}
                same = same_setting_difference(here, method, key)
                if has_settings and same != found[OWN_BEST]:
                    found[SAME] = same
                for how, difference in found.items():
                    if difference is not None:
                        head = ([label(task)] if has_task else []) + [method, metric]
                        head += [how] if has_settings else []
                        rows.append((*head, difference, difference.num, verdict(difference)))
    columns = ["task"] * has_task + ["method", "score"] + ["compared at"] * has_settings
    columns += ["minus SPIRE", "pairs", "verdict"]
    title = "Differences against SPIRE"
    return Table("differences", title, CAPTION, tuple(columns), tuple(rows)) if rows else None


def setting_differences_table(groups: Sequence[Group], metric: str) -> Table | None:
    """Return each method minus SPIRE at each of SPIRE's settings, both at their best rates.

    A method stands there with what it shares of the setting, out of what it was varied in. None
    where SPIRE had one setting, or was alone.
    """
    has_task = any(group.task for group in groups)
    rows: list[tuple[Cell, ...]] = []
    for task in tasks_of(groups):
        here = dict(by_method([group for group in groups if group.task == task]))
        ours: dict[Values, list[Group]] = {}
        for group in here.pop(REFERENCE, []):
            ours.setdefault(_shared(group), []).append(group)
        if len(ours) == 1:
            continue
        for place in sorted(ours, key=sortable):
            reference = best(ours[place], metric).values(metric)
            for method, theirs in here.items():
                rivals = [group for group in theirs if _agrees(group, place, theirs)]
                found = paired(best(rivals, metric).values(metric), reference) if rivals else None
                if found is not None:
                    told = ([label(task)] if has_task else []) + [label(place), method]
                    rows.append((*told, found, found.num, verdict(found)))
    columns = (*["task"] * has_task, "setting", "method", "minus SPIRE", "pairs", "verdict")
    title = "Differences setting by setting"
    return Table("by_setting", title, BY_SETTING, columns, tuple(rows)) if rows else None


def _shared(group: Group) -> Values:
    """Return the settings in which another method could agree."""
    return tuple(v for v in group.setting if not v[0].startswith(OWN))


def _agrees(group: Group, place: Values, rivals: Sequence[Group]) -> bool:
    """Return whether a group stands at a place, as far as it and its rivals differ there."""
    varied = {key for key, _ in place if len({dict(g.setting)[key] for g in rivals}) > 1}
    own = dict(group.setting)
    return all(own[key] == value for key, value in place if key in varied)


def own_best_difference(
    groups: Sequence[Group], method: str, key: str, chosen_by: str
) -> Estimate | None:
    """Return a method minus SPIRE, each at its own best setting."""
    chosen = {group.method: group for group in best_groups(groups, chosen_by)}
    if REFERENCE not in chosen:
        return None
    return paired(chosen[method].values(key), chosen[REFERENCE].values(key))


def same_setting_difference(groups: Sequence[Group], method: str, key: str) -> Estimate | None:
    """Return a method minus SPIRE at the settings that both have, mean over them for each seed."""
    theirs, ours = (_by_setting(groups, name, key) for name in (method, REFERENCE))
    differences: dict[Pair, list[float]] = {}
    for place in theirs.keys() & ours.keys():
        differences.setdefault(place[1], []).append(fmean(theirs[place]) - fmean(ours[place]))
    return estimate([fmean(several) for _, several in sorted(differences.items())])


def _by_setting(
    groups: Sequence[Group], method: str, key: str
) -> Mapping[tuple[Values, Pair], list[float]]:
    """Return a method's values at each setting that it could share with another, by pair."""
    found: dict[tuple[Values, Pair], list[float]] = {}
    for group in groups:
        if group.method == method:
            shared = tuple(v for v in group.setting if not v[0].startswith("method."))
            for pair, value in group.values(key).items():
                found.setdefault((shared, pair), []).append(value)
    return found


def runs_table(runs: Sequence[TrackedRun]) -> Table:
    """Return every run that was asked for, also those that the other tables leave out."""
    rows = [
        (
            run.name,
            run.run_id[:8],
            run.status,
            method_of(run),
            run.params.get("seed", run.tags.get("seed")),
            run.tags.get("state_fingerprint", "-")[:8],
            run.tags.get(DIAGNOSIS),
            run.tags.get("git_revision"),
        )
        for run in runs
    ]
    columns = ("run", "id", "status", "method", "seed", "state", "diagnosis", "revision")
    text = (
        "State: the head of the fingerprint of all weights at the end; equal ones are equal runs. "
        "Diagnosis: known failures that the run shows (docs/diagnoses.md)."
    )
    return Table("runs", "Runs", text, columns, tuple(rows))
