"""New clients along their epochs of adaptation: methods against SPIRE, and rates against epochs.

Every run has its curve, the KID of its new clients after so many epochs, in the tracking store.
"""

import itertools
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from pipeline.grid_figures import Grid, grids_figure
from sweeps.report_figures import AXES, Picture
from sweeps.report_groups import RATE, Group, Pair, by_method, label, pair_of, tasks_of
from sweeps.report_pairs import REFERENCE
from sweeps.report_series import Histories, curves, setting_of
from sweeps.report_stats import estimate, paired, verdict
from sweeps.report_tables import Cell, Table

KID_EPOCHS = "adapt/kid/mean"
ALONG_EPOCHS = (
    "KID of new clients after so many epochs, each method at the setting that is best for that "
    "many (chosen on the seeds that are shown), and minus SPIRE's on the same seeds: mean over "
    "pairs and 95 % interval."
)
Scores = Mapping[Pair, float]


def epochs_table(groups: Sequence[Group], histories: Histories) -> Table | None:
    """Return each method's KID after each number of epochs, and its difference against SPIRE.

    None where SPIRE, other methods or a second number of epochs are missing.
    """
    has_task, has_setting = (any(getattr(g, at) for g in groups) for at in ("task", "setting"))
    rows: list[tuple[Cell, ...]] = []
    for task in tasks_of(groups):
        here = by_method([group for group in groups if group.task == task])
        found = {method: best_at_epochs(own, histories) for method, own in here.items()}
        ours = found.get(REFERENCE, {})
        if len(found) < 2 or len(ours) < 2:
            continue
        for epoch, (method, best_at) in itertools.product(sorted(ours), found.items()):
            if epoch not in best_at:
                continue
            group, scores = best_at[epoch]
            less = None if method == REFERENCE else paired(scores, ours[epoch][1])
            told = ([label(task)] if has_task else []) + [f"{epoch:g}", method]
            told += [label(group.setting)] if has_setting else []
            compared = (less.num, verdict(less)) if less else (None, None)
            rows.append((*told, estimate(list(scores.values())), less, *compared))
    columns = ["task"] * has_task + ["epochs", "method"] + ["setting"] * has_setting
    columns += ["KID", "minus SPIRE", "pairs", "verdict"]
    title = "New clients along their epochs"
    return Table("epochs", title, ALONG_EPOCHS, tuple(columns), tuple(rows)) if rows else None


def best_at_epochs(
    groups: Sequence[Group], histories: Histories
) -> dict[float, tuple[Group, Scores]]:
    """Return, after each number of epochs, the group with the lowest mean KID and its scores.

    Out of those that were scored on the most seeds.
    """
    rivals: dict[float, list[tuple[Group, dict[Pair, float]]]] = {}
    for group in groups:
        scores: dict[float, dict[Pair, float]] = {}
        for run in group.runs:
            for epoch, value in histories.get(run.run_id, {}).get(KID_EPOCHS, ()):
                if epoch > 0:
                    scores.setdefault(epoch, {})[pair_of(run)] = value
        for epoch, own in scores.items():
            rivals.setdefault(epoch, []).append((group, own))
    return {
        epoch: min(several, key=lambda one: (-len(one[1]), fmean(one[1].values())))
        for epoch, several in rivals.items()
    }


def rate_pictures(groups: Sequence[Group], histories: Histories) -> list[Picture]:
    """Return, for each task with several rates, KID over rates and epochs, a map per method."""
    tasks, found = tasks_of(groups), []
    for number, task in enumerate(tasks, 1):
        here = [group for group in groups if group.task == task]
        grids = [grid for own in by_method(here).values() if (grid := _rates(own, histories))]
        if not grids:
            continue
        ylabels = [AXES[RATE][0]] + [""] * (len(grids) - 1)
        figure = grids_figure(grids, "epochs of adaptation", ylabels, "KID of new clients")
        suffix, told = (f"_{number}", f" ({label(task)})") if len(tasks) > 1 else ("", "")
        text = "KID of new clients, mean over clients and seeds, at each rate after each epoch."
        found.append(Picture(f"rates_epochs{suffix}", f"KID by rate and epoch{told}", text, figure))
    return found


def _rates(groups: Sequence[Group], histories: Histories) -> Grid | None:
    """Return a method's KID (rates, epochs), where several rates differ in nothing else."""
    at: dict[float, list[Group]] = {}
    for group in groups:
        if RATE in dict(group.setting) and (rate := setting_of(group, RATE)) is not None:
            at.setdefault(rate, []).append(group)
    if len(at) < 2 or any(len(several) > 1 for several in at.values()):
        return None
    lines = {
        r: line for r, own in sorted(at.items()) for line in curves(own, KID_EPOCHS, histories)
    }
    if len(lines) < 2:
        return None
    epochs = sorted(set(itertools.chain(*([p[0] for p in line.points] for line in lines.values()))))
    values = np.full((len(lines), len(epochs)), np.nan)
    for i, line in enumerate(lines.values()):
        for epoch, mean, *_ in line.points:
            values[i, epochs.index(epoch)] = mean
    texts = tuple(tuple("" if np.isnan(v) else f"{v:.2g}" for v in row) for row in values)
    method = groups[0].method
    return Grid(
        method, tuple(f"{r:g}" for r in lines), tuple(f"{e:g}" for e in epochs), values, texts
    )
