"""New clients along their epochs of adaptation: methods against SPIRE, and rates against epochs.

Every run has its curve, the KID of its new clients after so many epochs, in the tracking store.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from pipeline.tracking.mlflow_queries import TrackedRun
from sweeps.report.captions import has_text
from sweeps.report.choice import lowest
from sweeps.report.differences import REFERENCE
from sweeps.report.figures import AXES, KID_EPOCHS, Picture
from sweeps.report.groups import RATE, Group, Scores, by_method, by_task, label, pair_of, without
from sweeps.report.heat_maps import Grid, grids_figure
from sweeps.report.series import Histories, curves, setting_of
from sweeps.report.stats import Estimate, estimate, paired
from sweeps.report.tables import COMPARED, HEAD, Cell, Table, compared, head, made_table

ALONG_EPOCHS = (
    "KID of new clients after so many epochs, each method at the setting that is best for that "
    "many (chosen on the seeds that are shown), and minus SPIRE's on the same seeds: mean over "
    "pairs and 95 % interval."
)


def epochs_table(groups: Sequence[Group], histories: Histories) -> Table | None:
    """Return each method's KID after each number of epochs, and its difference against SPIRE.

    None where SPIRE, other methods or a second number of epochs are missing. Tasks with captions,
    in which KID orders nothing, have no rows.
    """
    rows: list[tuple[Cell, ...]] = []
    for here in by_task(groups).values():
        others = {method: best_at_epochs(own, histories) for method, own in by_method(here).items()}
        ours = others.pop(REFERENCE, {})
        if len(ours) < 2 or not any(others.values()) or has_text(here):
            continue
        for epoch in sorted(ours):
            reference = ours[epoch][1]
            for at in (ours, *others.values()):
                if epoch in at:
                    group, scores = at[epoch]
                    less = None if at is ours else paired(scores, reference)
                    cells = (*head(group), f"{epoch:g}", _mean(group, scores))
                    rows.append((*cells, *compared(less)))
    columns = (*HEAD, "epochs", "KID", *COMPARED)
    return made_table("epochs", "New clients along their epochs", ALONG_EPOCHS, columns, rows)


def _mean(group: Group, scores: Scores) -> Estimate | None:
    return estimate(list(scores.values()), missing=len(group.runs) - len(scores))


def best_at_epochs(
    groups: Sequence[Group], histories: Histories
) -> dict[float, tuple[Group, Scores]]:
    """Return, after each number of epochs, the best group and its KID by seed."""

    def curve(run: TrackedRun) -> dict[float, float]:
        return dict(histories.get(run.run_id, {}).get(KID_EPOCHS, ()))

    own = [(group, {pair_of(run): curve(run) for run in group.runs}) for group in groups]
    epochs = {epoch for _, by_pair in own for line in by_pair.values() for epoch in line if epoch}
    return {
        epoch: lowest(
            (group, {pair: line[epoch] for pair, line in by_pair.items() if epoch in line})
            for group, by_pair in own
        )
        for epoch in epochs
    }


def rate_pictures(groups: Sequence[Group], histories: Histories) -> list[Picture]:
    """Return, for each task with several rates, KID over rates and epochs, a map per method."""
    tasks, pictures = by_task(groups), []
    for number, (task, here) in enumerate(tasks.items(), 1):
        grids = [grid for own in by_method(here).values() if (grid := _rates(own, histories))]
        if not grids:
            continue
        ylabels = [AXES[RATE][0]] + [""] * (len(grids) - 1)
        figure = grids_figure(grids, "epochs of adaptation", ylabels, "KID of new clients")
        suffix, task_text = (f"_{number}", f" ({label(task)})") if len(tasks) > 1 else ("", "")
        text = "KID of new clients, mean over clients and seeds, at each rate after each epoch."
        pictures.append(
            Picture(f"rates_epochs{suffix}", f"KID by rate and epoch{task_text}", text, figure)
        )
    return pictures


def _rates(groups: Sequence[Group], histories: Histories) -> Grid | None:
    """Return a method's KID (rates, epochs), where several rates differ in nothing else."""
    at: dict[float, list[Group]] = {}
    for group in groups:
        if RATE in dict(group.setting) and (rate := setting_of(group, RATE)) is not None:
            at.setdefault(rate, []).append(group)
    others = {without(own, (RATE,)) for several in at.values() for own in several}
    if len(at) < 2 or len(others) > 1 or any(len(several) > 1 for several in at.values()):
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
