"""The primary comparisons of a study: effects, tests, and their correction for their number."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.config.build import build
from pipeline.config.safe_yaml import read_plain
from pipeline.results.metric_names import COVERED_RATIO, FLD_EXCESS, NN_EXCESS, NN_SHARE
from spire_core.errors import ConfigError
from sweeps.design.config import SweepConfig
from sweeps.design.planned import planned_runs
from sweeps.primary import MEASURES, Primary, Run, agree, planned_tasks, primaries
from sweeps.report.choice import best_groups, comparable
from sweeps.report.groups import Group, Values, by_task, label, on_seeds
from sweeps.report.origins import SWEEP_FILE
from sweeps.report.stats import Estimate, equivalence_p, holm_within, paired, two_sided_p
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


def recorded_findings(
    sweep_file: str, groups: Sequence[Group], chosen_by: str
) -> tuple[list[Finding], list[str]]:
    """Return the primary comparisons that a sweep's run recorded when it began, and notes.

    `sweep_file`: the sweep's settings as YAML; "" of a report without a sweep.
    """
    sweep = read_plain(sweep_file, SWEEP_FILE) if sweep_file else {}
    compared, planned, notes = list[Primary](), [], []
    try:
        compared = primaries(sweep.get("primary", ()))
        planned = planned_runs(build(SweepConfig, sweep), compared) if compared else []
    except ConfigError as error:  # of an earlier version, or with plugins that are not here
        what = "corrected for tasks that have not run" if compared else "among these tables"
        notes = [f"Primary comparisons are not {what}: {error}."]
    seeds = tuple(sweep.get("seeds", ()))
    meant = on_seeds(groups, seeds) if seeds else groups
    more = sum(len(group.runs) for group in groups) - sum(len(group.runs) for group in meant)
    if compared and more:
        notes.append(
            f"Primary comparisons leave out {more} runs on seeds that were added to the sweep "
            "after it had recorded these."
        )
    return findings(compared, meant, chosen_by, planned, len(seeds)), notes


def findings(
    compared: Sequence[Primary],
    groups: Sequence[Group],
    chosen_by: str,
    planned: Sequence[Run] = (),
    num_seeds: int = 0,
) -> list[Finding]:
    """Return the primary comparisons of a report's groups, those of a family corrected together.

    Each is made in every task that has one of its sides, and counts also where the other has not
    run, or neither though one is `planned`; one that no task has counts once. Both sides stand at
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
    theirs, ours = ({group.task: group for group in best_groups(side, by)} for side in sides)
    found = [
        _found(primary, task, theirs.get(task), ours.get(task))
        for task in by_task(groups)
        if task in theirs or task in ours
    ]
    has_run = [group.runs[0].params for side in sides for group in side]
    for task in planned_tasks(primary, planned):
        if not any(agree(params, task) for params in has_run):
            found.append(Finding(primary, tuple(task.items()), None))
    return found or [Finding(primary, (), None)]


def _found(primary: Primary, task: Values, method: Group | None, other: Group | None) -> Finding:
    if method is None or other is None or not comparable(method, other, primary.measure):
        return Finding(primary, task, None)
    both = (method, other)
    theirs, ours = (one.values(primary.measure) for one in both)
    if primary.scale == "difference":
        return Finding(primary, task, paired(theirs, ours))
    pairs = theirs.keys() & ours.keys()
    not_positive = [pair for pair in pairs if min(theirs[pair], ours[pair]) <= 0]
    if not_positive:
        return Finding(primary, task, None, num_not_positive=len(not_positive))
    logs = [{pair: math.log(own[pair]) for pair in own if pair in pairs} for own in (theirs, ours)]
    return Finding(primary, task, paired(*logs))


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
