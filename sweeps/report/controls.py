"""New clients' images beside those of controls: what copies, fresh images and a neighbour score."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.results.metric_names import CONTROL_NAMES
from pipeline.tracking.mlflow_queries import is_known
from sweeps.report.fit_axis import sets_aside
from sweeps.report.groups import Group, by_task, gathered, label
from sweeps.report.stats import Estimate, combined_p, estimate
from sweeps.report.tables import HEAD, Cell, Table, head, made_table

Rows = Mapping[str, Sequence[Mapping[str, Any]]]  # a row for each control, by run
ADAPTED = "adapted"
SHARED = {name: CONTROL_NAMES[name] for name in ("copies", "fresh")}  # by all methods
OWN = {ADAPTED: "drawn after adaptation"}
OWN |= {name: text for name, text in CONTROL_NAMES.items() if name not in SHARED}
SCORES = (
    ("KID", "kid"),
    ("TV", "tv"),
    ("NN share", "nn_share"),
    ("chance", "nn_chance"),
    ("NN AUC", "nn_auc"),
    ("NN p", "nn_p"),
    ("FLD gap", "fld_gap"),
    ("precision", "precision"),
    ("recall", "recall"),
)
CAPTION = (
    "What new clients draw after adaptation, and images that no fit has drawn, scored as if one "
    "had; means over new clients. Copies: a method that memorises scores so, however low its KID. "
    "Fresh: other images with the client's class mixture, the scores of a perfect model. Nearest "
    "client: the pre-training client of the most similar data. NN share: nearest to a training "
    "image out of all training and held-out images, and the share that chance gives; p: how often "
    "chance gives as much, over all new clients and seeds; AUC: training images told from held-out "
    "ones by the nearest of these images. FLD gap: to be held against that of fresh images. "
    "Precision, recall: of all clients' images together; copies have the precision of real images."
)


def controls_table(groups: Sequence[Group], rows: Rows) -> Table | None:
    """Return rows of these groups and of their controls; None where no run has any."""
    found: list[tuple[Cell, ...]] = []
    for task, here in by_task(groups).items():
        having = [group for group in here if any(rows.get(run.run_id) for run in group.runs)]
        for group in having:
            for control, name in OWN.items():
                if (cells := _cells(group, control, rows)) is not None:
                    found.append((*head(group), name, *cells))
        for is_part, alike in gathered(having, sets_aside).items():
            some = ", some set aside" if is_part else ""
            source = max(alike, key=lambda group: sum(bool(rows.get(r.run_id)) for r in group.runs))
            for control, name in SHARED.items():
                if (cells := _cells(source, control, rows)) is not None:
                    found.append((label(task), "", "", name + some, *cells))
    columns = (*HEAD, "images", "n", *(title for title, _ in SCORES))
    return made_table("controls", "Controls of new clients", CAPTION, columns, found)


def _cells(group: Group, control: str, rows: Rows) -> tuple[Cell, ...] | None:
    """Return a control's number of seeds and scores; None if no run has it."""
    by_run = [
        row for run in group.runs for row in rows.get(run.run_id, ()) if row["control"] == control
    ]
    if not by_run:
        return None
    return (len(by_run), *(_score(by_run, name) for _, name in SCORES))


def _score(by_run: Sequence[Mapping[str, Any]], name: str) -> Estimate | None:
    values = [row[name] for row in by_run if is_known(row.get(name))]
    summary = combined_p if name == "nn_p" else estimate
    return summary(values, missing=len(by_run) - len(values))
