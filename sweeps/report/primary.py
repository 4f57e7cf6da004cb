"""The primary comparisons of a study: effects, tests, and their correction for their number."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.config.meaning import reads
from pipeline.results.metric_names import COVERED_RATIO, FLD_EXCESS, NN_EXCESS, NN_SHARE
from spire_core.config.method import find_method
from sweeps.design.planned import planned_tasks, whole_tasks
from sweeps.primary import MEASURES, Primary, Run, agree
from sweeps.report.choice import best_groups, comparable
from sweeps.report.groups import Group, Values, label, sortable
from sweeps.report.stats import (
    Estimate,
    equivalence_p,
    holm_within,
    paired,
    paired_logs,
    two_sided_p,
)
from sweeps.report.tables import Cell, Table, made_table

LEVEL = 0.05
NO_CHOICE = (NN_SHARE, NN_EXCESS, FLD_EXCESS, COVERED_RATIO)  # nobody would choose by these
NO_CHOICE += ("final/adapt_forgetting_global",)
MATCHES, UNKNOWN = "matches", "cannot tell"
CAPTION = (
    "The comparisons that were written down before the study ran, on the same seeds and with both "
    "methods at their best setting by the compared score, or by that of all other tables where the "
    "score is one of copies, of coverage or of what existing clients lose: the mean over pairs of "
    "log(method / other), or of method minus other, with its 95 % interval, and as a ratio. p: "
    "Student's test of no difference; Holm: corrected for the number of the comparisons of a "
    "family, also those that lack runs. Equivalence: two one-sided tests against the margin, "
    "likewise corrected. Lower or higher: Holm below 0.05; matches: equivalence below 0.05."
)


@dataclass(frozen=True)
class Finding:
    """A primary comparison in one task: the paired difference, and its p-values if it has any.

    `num_not_positive`: the seeds on which a score is not above zero, so that there is no ratio.
    `num_seeds`: how many the study plans; the others have not run, are lost, or have no score.
    """

    primary: Primary
    task: Values
    effect: Estimate | None
    p: float | None = None
    holm_p: float | None = None
    equivalence: float | None = None
    num_not_positive: int = 0
    num_seeds: int = 0

    @property
    def verdict(self) -> str:
        """What can be said: where the method lies, that both match, or that nobody can tell."""
        said = []
        if self.effect is not None and self.holm_p is not None and self.holm_p < LEVEL:
            said.append("lower" if self.effect.mean < 0 else "higher")
        if self.equivalence is not None and self.equivalence < LEVEL:
            said.append(MATCHES)
        text = ", ".join(said) or UNKNOWN
        if self.effect is None or self.effect.num >= self.num_seeds:
            return text
        return f"{text} on {self.effect.num} of {self.num_seeds} seeds"

    @property
    def ratio(self) -> str | None:
        """The ratio of the two scores with its interval."""
        if self.effect is None or self.primary.scale != "ratio":
            return None
        mean, half = self.effect.mean, self.effect.half_width
        if half is None:
            return f"{math.exp(mean):.3g}"
        ends = (math.exp(end) for end in (mean - half, mean + half))
        return f"{math.exp(mean):.3g} [{', '.join(f'{end:.3g}' for end in ends)}]"


def findings(
    compared: Sequence[Primary],
    groups: Sequence[Group],
    chosen_by: str,
    planned: Sequence[Run] = (),
    num_seeds: int = 0,
) -> list[Finding]:
    """Return the primary comparisons of a report's groups, those of a family corrected together.

    Each is made in every task that has one of its sides, and counts also where the other has not
    run, or neither though one is `planned`; one that no task has counts once. A method that does
    not read a setting of the task stands in all tasks that differ in it alone. Both sides stand at
    their best setting by the compared score, or by `chosen_by` where that one is in `NO_CHOICE`:
    the least copied are not the best. `num_seeds`: those of the study.
    """
    made = [one for primary in compared for one in _compared(primary, groups, chosen_by, planned)]
    differ = [None if one.effect is None else two_sided_p(one.effect) for one in made]
    match = [
        None if one.effect is None else equivalence_p(one.effect, one.primary.limit) for one in made
    ]
    families = [one.primary.family for one in made]
    corrected = (holm_within(families, differ), holm_within(families, match))
    tests = zip(made, differ, *corrected, strict=True)
    return [
        replace(one, p=p, holm_p=ph, equivalence=pe, num_seeds=num_seeds)
        for one, p, ph, pe in tests
    ]


def _compared(
    primary: Primary,
    groups: Sequence[Group],
    chosen_by: str,
    planned: Sequence[Run],
) -> list[Finding]:
    """Return a comparison in each task, without p-values."""
    by = chosen_by if primary.measure in NO_CHOICE else primary.measure
    sides = [
        [group for group in groups if side.fits(group.method, group.runs[0].params)]
        for side in primary.sides
    ]
    theirs, ours = (best_groups(side, by) for side in sides)
    wanted = planned_tasks(primary, planned)
    keys = {key for task in wanted for key in task}
    in_order = sorted([*theirs, *ours], key=lambda group: sortable(group.task))
    found = [
        _found(primary, task, _standing(theirs, task), _standing(ours, task))
        for task in whole_tasks(_task(group) for group in in_order if _reads(group, keys))
    ]
    has_run = [group.runs[0].params for side in sides for group in side if _reads(group, keys)]
    for task in wanted:
        if not any(agree(params, task) for params in has_run):
            found.append(Finding(primary, tuple(task.items()), None))
    return found or [Finding(primary, (), None)]


def _reads(group: Group, keys: Iterable[str]) -> bool:
    """Return whether a group's method reads all of these settings."""
    method = find_method(group.method)
    return method is None or all(reads(method, key) for key in keys)


def _task(group: Group) -> dict[str, str]:
    """Return the settings of a group's task that its method reads."""
    return {key: value for key, value in group.task if _reads(group, [key])}


def _standing(groups: Sequence[Group], task: Mapping[str, str]) -> Group | None:
    """Return the group that stands in a task: it agrees in all that its method reads."""
    return next((group for group in groups if _task(group).items() <= task.items()), None)


def _found(
    primary: Primary, task: Mapping[str, str], method: Group | None, other: Group | None
) -> Finding:
    alone = Finding(primary, tuple(task.items()), None)
    if method is None or other is None or not comparable(method, other, primary.measure):
        return alone
    theirs, ours = (one.values(primary.measure) for one in (method, other))
    if primary.scale == "difference":
        return replace(alone, effect=paired(theirs, ours))
    lowest = [min(theirs[pair], ours[pair]) for pair in theirs.keys() & ours.keys()]
    num_not_positive = sum(score <= 0 for score in lowest)
    return replace(alone, effect=paired_logs(theirs, ours), num_not_positive=num_not_positive)


def primary_table(found: Sequence[Finding]) -> Table | None:
    """Return a row for each finding; None without primary comparisons."""
    rows: list[tuple[Cell, ...]] = []
    for one in found:
        head = (label(one.task), one.primary.place, MEASURES[one.primary.measure])
        head += (one.primary.method, one.primary.other, one.primary.scale)
        effect = (one.effect, one.ratio, None if one.effect is None else one.effect.num)
        tests = (one.p, one.holm_p, one.primary.margin, one.equivalence, one.verdict)
        rows.append((*head, *effect, *tests))
    columns = ("task", "where", "measure", "method", "against", "scale", "effect", "ratio")
    columns += ("pairs", "p", "Holm", "margin", "equivalence", "verdict")
    return made_table("primary", "Primary comparisons", CAPTION, columns, rows)


def primary_answers(found: Sequence[Finding]) -> list[str]:
    """Return a sentence for each finding; those that lack runs come last."""
    sizes = Counter(one.primary.family for one in found)
    ordered = sorted(found, key=lambda one: one.p is None)
    return [_answer(one, sizes[one.primary.family]) for one in ordered]


def _answer(one: Finding, num: int) -> str:
    place = f"{label(one.task)}: " if label(one.task) else ""
    text = f"{place}Primary: {one.primary.words}: "
    if one.effect is None and one.num_not_positive:
        seeds = f"{one.num_not_positive} {'seed' if one.num_not_positive == 1 else 'seeds'}"
        return f"{text}scores are not above zero on {seeds}, so there is no ratio."
    if one.effect is None:
        return f"{text}there are no such pairs of runs."
    if one.p is None:
        return f"{text}one pair, which is no comparison."
    half = one.effect.half_width or 0.0
    size = f"ratio {one.ratio}"
    if one.primary.scale == "difference":
        size = f"difference {one.effect.mean:.3g} ± {half:.2g}"
    within = f"{one.primary.margin:.3g}"
    if one.primary.scale == "ratio":
        within = f"{100 * one.primary.margin:.3g} %"
    return (
        f"{text}{one.verdict} ({size}, {one.effect.num} pairs; p {one.p:.2g}, Holm of {num} "
        f"{one.holm_p:.2g}; within {within}: p {one.equivalence:.2g})."
    )
