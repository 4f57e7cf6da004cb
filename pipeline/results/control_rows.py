"""New clients' controls in tables: their scores for each client, and over all clients.

A control's share of nearest training images is held against chance by `exchange_p`, as that of the
clients' own images is.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.federation.messages import ControlScores
from pipeline.results.neighbour_columns import neighbour_columns, pooled_p
from pipeline.results.result import Adaptation
from spire_core.evaluation.memorisation import Neighbours

ADAPTED = "adapted"  # the clients' own images, in the row before the controls
COLUMNS = ("kid", "tv", "nn_share", "nn_chance", "nn_auc")


def control_columns(controls: Mapping[str, ControlScores]) -> dict[str, Any]:
    """Return the scores of one client's controls, by `SCORE_CONTROL`."""
    return {
        f"{score}_{name}": value
        for name, own in controls.items()
        for score, value in _scores(own).items()
    }


def _scores(control: ControlScores) -> dict[str, Any]:
    return {"kid": control.kid, "tv": control.tv} | neighbour_columns(control.neighbours)


def control_rows(
    adaptation: Adaptation, new_clients: Sequence[Mapping[str, Any]], seed: int
) -> list[dict[str, Any]]:
    """Return a row of means over clients for the adapted models and for each control.

    `new_clients`: rows of `new_client_rows`.
    """
    own = [{"kid": row["kid_after"], "tv": row["tv_after"], **_near(row)} for row in new_clients]
    near = [report.neighbours for report in adaptation.reports]
    rows = [_row(ADAPTED, own, near, seed)]
    names = dict.fromkeys(name for controls in adaptation.image_controls for name in controls)
    for name in names:
        some = [controls[name] for controls in adaptation.image_controls if name in controls]
        near = [one.neighbours for one in some]
        rows.append(_row(name, [_scores(one) for one in some], near, seed))
    return rows


def _near(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in COLUMNS[2:] if name in row}


def _row(
    name: str, scores: Sequence[Mapping[str, Any]], near: Sequence[Neighbours | None], seed: int
) -> dict[str, Any]:
    columns = {column: [own.get(column) for own in scores] for column in COLUMNS}
    means = {
        column: float(np.mean([v for v in values if v is not None]))
        if any(v is not None for v in values)
        else None
        for column, values in columns.items()
    }
    return {"control": name} | means | {"nn_p": pooled_p(near, seed), "num_clients": len(scores)}
