"""Differences against SPIRE on the same seeds, and the list of runs.

A pair is two runs on one seed and one partition. Methods are compared each at its own best setting;
at the same settings (the mean over them of each seed, so that the interval is over seeds alone);
and at these one by one. Settings are the same if they agree in all that both methods read; those of
`method.*` and the rate of adaptation belong to a method and need not agree. A task in which nobody
has the choosing score chooses by one of its own, and is compared by it.
"""

from collections.abc import Callable, Sequence
from statistics import fmean

from pipeline.config.meaning import reads
from spire_core.config.method import find_method
from sweeps.primary import HELDOUT
from sweeps.report.captions import OF_KID, has_text
from sweeps.report.choice import best, best_groups, comparable, in_words, task_metric
from sweeps.report.groups import (
    NN_GAP,
    OF_ADAPTATION,
    OWN_KID,
    TUNED_KID,
    Group,
    Pair,
    Scores,
    Values,
    by_method,
    by_task,
    gathered,
    label,
    shared,
    sortable,
    without,
)
from sweeps.report.stats import Estimate, estimate, paired, paired_logs
from sweeps.report.tables import COMPARED, Cell, Table, compared, made_table

REFERENCE = "spire"
OWN_BEST, SAME = "own best settings", "same settings"
METRICS = (
    ("new clients: KID after", "final/adapt_kid_after"),
    ("new clients: TV after", "final/adapt_tv_after"),
    ("new clients: held-out after", HELDOUT),
    ("pre-training: KID, last round", "final/pretrain_kid_mean"),
)
PROMPTS = (
    ("new clients: prompts read", "final/adapt_prompt_accuracy_after"),
    ("new clients: prompts forgotten", "final/adapt_forgetting_prompts"),
    ("new clients: distance to the true images", "final/adapt_style_distance_after"),
    ("new clients: retrieved", "final/adapt_retrieved_after"),
    ("new clients: copied", "final/adapt_copied_after"),
)
DIFFERENCES = (*METRICS, ("new clients: NN train - test", NN_GAP), *PROMPTS)
OWN_MODELS = ("pre-training: KID, own or fine-tuned models", OWN_KID)
RATIOS = (  # scores above zero, whose ratio says how much better a method is
    "final/adapt_kid_after",
    "final/pretrain_kid_mean",
    "final/adapt_style_distance_after",
    HELDOUT,
    OWN_KID,
)
CAPTION = (
    "Each method minus SPIRE on the same seeds, mean over pairs and 95 % interval; below zero the "
    "method's score is lower, which is better for all of these but three: NN, where its images are "
    "nearer to training than to test images by more than SPIRE's, and prompts read and retrieved, "
    "where higher is better. Lower or higher: only where the interval excludes zero. Log ratio: "
    "mean of log(method / SPIRE), which does not shrink as both scores do; 0.1 is about 10 %. "
    "With captions KID orders nothing and is left out. Several comparisons at once: one in twenty "
    "intervals misses by chance."
)
BY_SETTING = (
    "Each method minus SPIRE on {score} at each of SPIRE's settings, paired on seeds, each at its "
    "best rate of adaptation. A method stands there if it was run at that setting, apart from what "
    "it does not read, such as the size of an embedding that it has not got, and from what SPIRE "
    "does not read, of which it has its best. Log ratio: mean of log(method / SPIRE), which does "
    "not shrink as both scores do."
)

WITHIN = (
    "Each setting of a method minus its best one on {score}, paired on seeds, each at its best "
    "rate of adaptation, and the held-out loss at the same. The best one was chosen on the seeds "
    "that are shown."
)


def differences_table(groups: Sequence[Group], chosen_by: str) -> Table | None:
    """Return the paired differences; None without SPIRE or without any other method."""
    rows: list[tuple[Cell, ...]] = []
    has_settings = any(group.setting for group in groups)
    for task, here in by_task(groups).items():
        for method, own in by_method(here).items():
            if method == REFERENCE:
                continue
            has_tuned = any(group.values(TUNED_KID) for group in own)
            compared_by = [*DIFFERENCES, *[OWN_MODELS] * has_tuned]
            if has_text(here):
                compared_by = [one for one in compared_by if one[1] not in OF_KID]
            for name, metric in compared_by:
                by = metric if metric == OWN_KID else chosen_by
                by_comparison = {OWN_BEST: own_best_difference(here, method, metric, by)}
                same = same_setting_difference(here, method, metric, by)
                if has_settings and same != by_comparison[OWN_BEST]:
                    by_comparison[SAME] = same
                for how, difference in by_comparison.items():
                    if difference is not None:
                        cells = (label(task), method, name, how if has_settings else "")
                        has_logs = metric in RATIOS and how == OWN_BEST
                        logs = (here, method, metric, by, paired_logs)
                        ratio = own_best_difference(*logs) if has_logs else None
                        rows.append((*cells, *compared(difference), ratio))
    columns = ("task", "method", "score", "compared at", *COMPARED, "log ratio")
    return made_table("differences", "Differences against SPIRE", CAPTION, columns, rows)


def own_best_difference(
    groups: Sequence[Group],
    method: str,
    metric: str,
    chosen_by: str,
    difference: Callable[[Scores, Scores], Estimate | None] = paired,
) -> Estimate | None:
    """Return the difference of a method from SPIRE, each at its own best setting."""
    chosen = {group.method: group for group in best_groups(groups, chosen_by)}
    if REFERENCE not in chosen or not comparable(chosen[method], chosen[REFERENCE], metric):
        return None
    return difference(chosen[method].values(metric), chosen[REFERENCE].values(metric))


def same_setting_difference(
    groups: Sequence[Group], method: str, metric: str, chosen_by: str
) -> Estimate | None:
    """Return a method minus SPIRE at the settings that both have, mean over them for each seed.

    Only seeds that have them all: otherwise what differs between settings would be in the interval.
    """
    differences: dict[Pair, list[float]] = {}
    at = at_same_settings(groups, method, chosen_by)
    for theirs, ours in at.values():
        scores, reference = theirs.values(metric), ours.values(metric)
        for pair in scores.keys() & reference.keys():
            differences.setdefault(pair, []).append(scores[pair] - reference[pair])
    whole = [own for _, own in sorted(differences.items()) if len(own) == len(at)]
    return estimate([fmean(own) for own in whole])


def setting_differences_table(groups: Sequence[Group], chosen_by: str) -> Table | None:
    """Return each method minus SPIRE at each of SPIRE's settings, each at its best rate.

    None where SPIRE had one setting, or was alone.
    """
    rows: list[tuple[Cell, ...]] = []
    metrics = set[str]()
    for task, here in by_task(groups).items():
        metric = task_metric(here, chosen_by)
        several = {shared(group) for group in here if group.method == REFERENCE}
        if len(several) < 2:
            continue
        by_method_at = {
            method: at_same_settings(here, method, metric)
            for method in by_method(here)
            if method != REFERENCE
        }
        for place in sorted(several, key=sortable):
            for method, at in by_method_at.items():
                if place not in at:
                    continue
                theirs, ours = at[place]
                both = theirs.values(metric), ours.values(metric)
                difference = paired(*both)
                ratio = paired_logs(*both) if metric in RATIOS else None
                if difference is not None:
                    rows.append((label(task), label(place), method, *compared(difference), ratio))
                    metrics.add(metric)
    columns = ("task", "setting", "method", *COMPARED, "log ratio")
    title, text = "Differences setting by setting", BY_SETTING.format(score=in_words(metrics))
    return made_table("by_setting", title, text, columns, rows)


def within_methods_table(groups: Sequence[Group], chosen_by: str) -> Table | None:
    """Return each setting of a method minus the method's best one; None without two settings.

    Beside the score by which it is the best stands new clients' held-out loss, if any run has it.
    """
    rows: list[tuple[Cell, ...]] = []
    metrics = set[str]()
    for task, here in by_task(groups).items():
        metric = task_metric(here, chosen_by)
        for method, own in by_method(here).items():
            at = gathered(own, lambda group: without(group, OF_ADAPTATION))
            chosen = {place: best(several, metric) for place, several in at.items()}
            reference = best(chosen.values(), metric)
            for place in sorted(chosen, key=sortable) if len(chosen) > 1 else ():
                group = chosen[place]
                scores = [_against(group, reference, key) for key in (metric, HELDOUT)]
                rows.append((label(task), method, label(place), *scores[0], *scores[1]))
                metrics.add(metric)
    columns = ("task", "method", "setting", "score", "minus its best", *COMPARED[1:])
    columns += ("held-out", "held-out minus its best", "held-out pairs", "held-out verdict")
    title, text = "Settings of a method", WITHIN.format(score=in_words(metrics))
    return made_table("within_methods", title, text, columns, rows)


def _against(group: Group, reference: Group, metric: str) -> tuple[Cell, ...]:
    """Return a group's score and the cells of its difference from another one's, if it is one."""
    difference = None
    if group is not reference and comparable(group, reference, metric):
        difference = paired(group.values(metric), reference.values(metric))
    return (group.estimate(metric), *compared(difference))


def at_same_settings(
    groups: Sequence[Group], method: str, chosen_by: str
) -> dict[Values, tuple[Group, Group]]:
    """Return a method's best group and SPIRE's at each of SPIRE's settings that both have.

    All groups are of one task.
    """
    ours = gathered(by_method(groups).get(REFERENCE, []), shared)
    theirs, metric = by_method(groups).get(method, []), task_metric(groups, chosen_by)
    pairs = {}
    for place, several in ours.items():
        if rivals := [group for group in theirs if _is_at(group, place)]:
            pairs[place] = best(rivals, metric), best(several, metric)
    return pairs


def _is_at(group: Group, place: Values) -> bool:
    """Return whether a group agrees with SPIRE's setting in all that both methods read."""
    both, own = (find_method(REFERENCE), find_method(group.method)), dict(group.setting)
    return all(
        own[key] == value
        for key, value in place
        if all(record is None or reads(record, key) for record in both)
    )
