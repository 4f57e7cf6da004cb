"""What a report found, in a sentence for each question: the first thing that a reader sees."""

from collections.abc import Mapping, Sequence

from sweeps.report.captions import OF_KID, has_text
from sweeps.report.differences import HELDOUT, REFERENCE, own_best_difference
from sweeps.report.groups import Group, by_task, label
from sweeps.report.stats import Estimate, verdict
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
    values = {group.method: group.estimate(metric) for group in groups}
    known = {method: value for method, value in values.items() if value is not None}
    if len(known) < 2:
        return None
    text = f"{question}: {words} is {_order(known)}."
    compared = [
        _against(method, own_best_difference(groups, method, metric, chosen_by))
        for method in known
        if method != REFERENCE and REFERENCE in known
    ]
    told = [sentence for sentence in compared if sentence]
    return f"{text} On the same seeds, {'; '.join(told)}." if told else text


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
