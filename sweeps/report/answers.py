"""What a report found, in a sentence for each question: the first thing that a reader sees."""

from collections.abc import Mapping, Sequence

from sweeps.primary import HELDOUT
from sweeps.report.captions import OF_KID, has_text
from sweeps.report.choice import common_pairs, comparable
from sweeps.report.differences import REFERENCE, own_best_difference
from sweeps.report.groups import Group, Scores, by_task, label
from sweeps.report.stats import Estimate, estimate, verdict
from sweeps.report.tables import cell_text

QUESTIONS = (  # the question, its metric, and the metric in words
    ("Pre-training clients", "final/pretrain_kid_mean", "KID"),
    ("New clients", "final/adapt_kid_after", "KID after adaptation"),
    ("New clients", "final/adapt_style_distance_after", "distance to the true images"),
    ("New clients' unseen images", HELDOUT, "held-out loss"),
    ("Clients that exist", "final/adapt_forgetting_global", "KID lost as a new one adapts"),
)
ONE_SEED = "One seed: these values are no comparison. Several seeds, as in seeds=[0,1,2,3,4], are."


def answers_of(groups: Sequence[Group], chosen_by: str) -> list[str]:
    """Return the answers of a report's methods, each at its best setting by `chosen_by`."""
    found = []
    for task, here in by_task(groups).items():
        place = f"{label(task)}: " if label(task) else ""
        asked = [one for one in QUESTIONS if not (one[1] in OF_KID and has_text(here))]
        texts = [_answer(here, chosen_by, *question) for question in asked]
        found += [f"{place}{text}" for text in texts if text]
    if found and all(len(group.runs) == 1 for group in groups):
        found.append(ONE_SEED)
    return found


def _answer(
    groups: Sequence[Group], chosen_by: str, question: str, metric: str, words: str
) -> str | None:
    """Return the order of the methods; None unless two of them have the metric."""
    scores = {group.method: own for group in groups if (own := group.values(metric))}
    alike = all(comparable(groups[0], group, metric) for group in groups)
    if len(scores) < 2 or not alike:
        return None
    text = _ordered(scores, f"{question}: {words}")
    compared = [
        _against(method, own_best_difference(groups, method, metric, chosen_by))
        for method in scores
        if method != REFERENCE and REFERENCE in scores
    ]
    told = [sentence for sentence in compared if sentence]
    return f"{text} On the same seeds, {'; '.join(told)}." if told else text


def _ordered(scores: Mapping[str, Scores], what: str) -> str:
    """Return the order of methods by a score, over the seeds that all of them have."""
    common = common_pairs([*scores.values()])
    if not common:
        return f"{what} has no order, since no seed has it of all methods."
    values = {method: estimate([own[pair] for pair in common]) for method, own in scores.items()}
    text = _order({method: value for method, value in values.items() if value is not None})
    if all(len(own) == len(common) for own in scores.values()):
        return f"{what} is {text}."
    seeds = "the one seed" if len(common) == 1 else f"the {len(common)} seeds"
    return f"{what}, on {seeds} that all methods have, is {text}."


def _order(values: Mapping[str, Estimate]) -> str:
    """Return the methods from the lowest value on; methods of the same value share a place."""
    ranked = sorted(values.items(), key=lambda one: one[1].mean)
    lowest = cell_text(ranked[0][1])
    best = [method for method, value in ranked if cell_text(value) == lowest]
    others = [f"{m} {text}" for m, v in ranked if (text := cell_text(v)) != lowest]
    first = f"{', '.join(best[:-1])} and {best[-1]}" if best[1:] else best[0]
    return (
        f"lowest with {first} ({lowest}); {', '.join(others)}"
        if others
        else f"{lowest} with {first}"
    )


def _against(method: str, difference: Estimate | None) -> str | None:
    """Return a method's paired difference against SPIRE in words; None without an interval."""
    if difference is None or difference.half_width is None:
        return None
    found = verdict(difference)
    if found == "cannot tell":
        return f"{method} cannot be told from {REFERENCE}"
    return f"{method} is {found} than {REFERENCE} by {cell_text(_absolute(difference))}"


def _absolute(difference: Estimate) -> Estimate:
    low, high = sorted((abs(difference.low), abs(difference.high)))
    return Estimate(abs(difference.mean), difference.half_width, difference.num, low, high)
