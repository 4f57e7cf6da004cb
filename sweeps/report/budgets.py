"""New clients' scores against the privacy budget of one image, and attacks beside them.

Runs with another epsilon belong to another task. These lines go across such tasks, one for each
method, mechanism and shared setting, at the rate and clip norm that are best at each budget.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sweeps.report.choice import best, task_metric
from sweeps.report.figures import SPREAD, Picture, score_floor
from sweeps.report.groups import (
    SCORES,
    UNSET,
    Group,
    Values,
    as_number,
    gathered,
    label,
    method_order,
    shared,
)
from sweeps.report.seed_plots import Series, budgets_figure

BUDGET, MECHANISM = "privacy.adapt.epsilon", "privacy.adapt.mechanism"
NO_PRIVACY = math.inf  # as a budget
ATTACK = "privacy/mia_auc"
CAPTION = (
    "Lower is better: {score} against epsilon, the privacy budget of one image; at the right end, "
    "without privacy. Each method is at its best rate and clip norm at each budget; {spread}."
)
ATTACKS = (
    " Beside it: how well an attack tells the images that were trained on (AUC); 0.5 is chance."
)


@dataclass(frozen=True)
class BudgetLine:
    """A method with one mechanism and one choice of its other settings: its best groups."""

    name: str
    style: int
    variant: int
    is_first: bool  # of its mechanisms
    groups: Mapping[float, Group]  # by epsilon

    def series(self, key: str) -> list[Series]:
        """Return a metric at each budget where it is known, if it is at any.

        A second mechanism does not stand where all mechanisms are the same, without privacy, alone.
        """
        estimates = ((epsilon, group.estimate(key)) for epsilon, group in self.groups.items())
        points = tuple((epsilon, e.mean, e.low, e.high) for epsilon, e in estimates if e)
        is_own = any(epsilon != NO_PRIVACY for epsilon, *_ in points) or self.is_first
        return [Series(self.name, self.style, points, self.variant)] if points and is_own else []


def budget_pictures(groups: Sequence[Group], chosen_by: str) -> list[Picture]:
    """Return a figure for each task, whatever its epsilon, that was run at several.

    The one with the most lines comes first.
    """
    tasks = gathered(groups, lambda group: tuple(v for v in group.task if v[0] != BUDGET))
    drawn = {
        task: picture
        for task, here in tasks.items()
        if (picture := _draw(here, task_metric(here, chosen_by)))
    }
    if len(drawn) == 1:
        return [*drawn.values()]
    pictures = [
        Picture(f"{p.name}_{number}", f"{p.title} ({label(task)})", p.caption, p.figure)
        for number, (task, p) in enumerate(drawn.items(), 1)
    ]
    return sorted(pictures, key=lambda p: len(p.figure.axes[0].containers), reverse=True)


def lines(groups: Sequence[Group], metric: str) -> list[BudgetLine]:
    """Return the lines of a task; a fit without privacy ends those of all its mechanisms.

    Lines have their method's colour, unless one method alone has several settings.
    """
    scored = [group for group in groups if group.values(metric)]
    heads = list(gathered(scored, _head))
    is_alone = len({method for method, _ in heads}) == 1 < len(heads)
    found = list[BudgetLine]()
    for number, head in enumerate(heads):
        own = [group for group in scored if _head(group) == head]
        public = [group for group in own if _budget(group) == NO_PRIVACY]
        private = gathered((g for g in own if _budget(g) != NO_PRIVACY), _mechanism) or {"": []}
        style = number if is_alone else method_order(head[0])[0]
        num_alike = sum(line.style == style for line in found)
        for place, (mechanism, several) in enumerate(private.items()):
            at = gathered([*several, *public], _budget)
            name = ", ".join(filter(None, (head[0], label(head[1]) if head[1] else "", mechanism)))
            rivals = {epsilon: best(here, metric) for epsilon, here in sorted(at.items())}
            found.append(BudgetLine(name, style, num_alike + place, place == 0, rivals))
    return found


def _draw(groups: Sequence[Group], metric: str) -> Picture | None:
    own = lines(groups, metric)
    budgets = {epsilon for line in own for epsilon in line.groups}
    if len(budgets) < 2:
        return None
    scores = [series for line in own for series in line.series(metric)]
    attacks = [series for line in own for series in line.series(ATTACK)]
    ylabel, floor = f"{SCORES[metric]}, mean", score_floor(groups, metric)
    figure = budgets_figure(scores, attacks, ylabel, floor)
    text = CAPTION.format(score=SCORES[metric], spread=SPREAD)
    text += ATTACKS if attacks else ""
    return Picture("privacy_budget", "What privacy costs", text, figure)


def _head(group: Group) -> tuple[str, Values]:
    """Return a group's method, and the settings in which other methods can agree with it."""
    return group.method, tuple(choice for choice in shared(group) if choice[1] != UNSET)


def _budget(group: Group) -> float:
    epsilon = as_number(dict(group.task).get(BUDGET, UNSET))
    return NO_PRIVACY if epsilon is None else epsilon


def _mechanism(group: Group) -> str:
    """Return a group's mechanism; "" if all runs have the same."""
    return dict(group.setting).get(MECHANISM, "")
