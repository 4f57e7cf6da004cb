"""A method's best setting, chosen by a score on the seeds that its rivals share."""

import math
from collections.abc import Collection, Iterable, Sequence
from statistics import fmean

from pipeline.results.metric_names import PRECISION, RECALL
from sweeps.primary import HELDOUT, TARGET
from sweeps.report.groups import OWN_KID, SCORES, Group, Pair, Scores, by_task, gathered

HIGHER_IS_BETTER = ("final/adapt_prompt_accuracy_after", PRECISION, RECALL)


def choosing_metric(groups: Sequence[Group]) -> str:
    """Return the metric by which a method's best setting is chosen, in each task that has it."""
    return task_metric(groups, next(iter(SCORES)))


def task_metric(groups: Sequence[Group], metric: str) -> str:
    """Return the metric by which groups of one task choose: this one, or the first they have."""
    known = (key for key in (metric, *SCORES) if any(group.values(key) for group in groups))
    return next(known, metric)


def in_words(metrics: Collection[str]) -> str:
    """Return the scores by which the tasks of a table choose, in words."""
    return " or, in tasks without it, ".join(SCORES[key] for key in SCORES if key in metrics)


def best(groups: Iterable[Group], metric: str) -> Group:
    """Return the setting with the best mean, out of those that were scored on the most seeds.

    Of equals, the one whose pre-training clients draw best: their fine-tuning leaves new clients'
    scores as they were.
    """
    sign = -1 if metric in HIGHER_IS_BETTER else 1
    rivals = _with_most((group, group.values(metric)) for group in groups)
    means = _means([scores for _, scores in rivals])
    of_old = _means([group.values(OWN_KID) for group, _ in rivals])
    ranks = [(sign * mean, kid) for mean, kid in zip(means, of_old, strict=True)]
    return rivals[ranks.index(min(ranks))][0]


def lowest(scored: Iterable[tuple[Group, Scores]]) -> tuple[Group, Scores]:
    """Return the group with the lowest mean, out of those with the most scores, and its scores."""
    rivals = _with_most(scored)
    means = _means([scores for _, scores in rivals])
    return rivals[means.index(min(means))]


def _with_most(scored: Iterable[tuple[Group, Scores]]) -> list[tuple[Group, Scores]]:
    scored = list(scored)
    most = max(len(scores) for _, scores in scored)
    return [one for one in scored if len(one[1]) == most]


def _means(rivals: Sequence[Scores]) -> list[float]:
    """Return each rival's mean over the seeds of all, or over its own if they share none.

    A seed that is hard for all speaks against nobody. Without scores a mean is infinite.
    """
    common = common_pairs(rivals)
    return [
        fmean(scores[pair] for pair in common or scores) if scores else math.inf
        for scores in rivals
    ]


def common_pairs(several: Sequence[Scores]) -> set[Pair]:
    """Return the pairs that all of one or more scores have."""
    return set(several[0]).intersection(*several[1:])


def comparable(one: Group, other: Group, metric: str) -> bool:
    """Return whether a metric means the same of both: a loss is the error of its own target."""
    params, others = one.runs[0].params, other.runs[0].params
    return metric != HELDOUT or all(params.get(key) == others.get(key) for key in TARGET)


def best_groups(groups: Sequence[Group], metric: str) -> list[Group]:
    """Return each method's best setting of each task, in the order of the groups.

    A task in which nobody has the metric chooses by one that it has.
    """
    by = {task: task_metric(own, metric) for task, own in by_task(groups).items()}
    rivals = gathered(groups, lambda group: (group.task, group.method))
    return [best(several, by[task]) for (task, _), several in rivals.items()]
