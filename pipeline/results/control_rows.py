"""New clients' controls in tables: their scores for each client, and over all clients.

A control's share of nearest training images is held against chance by `exchange_p`, as that of the
clients' own images is. Precision and recall are of all clients' images together.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from torch import Tensor

from pipeline.evaluation.scores import RealData
from pipeline.federation.messages import ControlScores
from pipeline.federation.setup import FederationSetup
from pipeline.results.covered import covered_ratio
from pipeline.results.metric_names import IMAGE_TAGS
from pipeline.results.neighbour_columns import neighbour_columns, pooled_p
from pipeline.results.result import Adaptation
from spire_core.evaluation.memorisation import Neighbours
from spire_core.evaluation.precision_recall import pooled_precision_recall

ADAPTED = "adapted"  # the clients' own images, in the row before the controls
FRESH = "fresh"  # the control whose FLD gap is that of images that nobody has fitted
COLUMNS = ("kid", "tv", "nn_share", "nn_chance", "nn_auc", "fld_gap")


def control_columns(controls: Mapping[str, ControlScores]) -> dict[str, Any]:
    """Return the scores of one client's controls, by `SCORE_CONTROL`."""
    return {
        f"{score}_{name}": value
        for name, own in controls.items()
        for score, value in _scores(own).items()
    }


def _scores(control: ControlScores) -> dict[str, Any]:
    gap = {} if control.fld_gap is None else {"fld_gap": control.fld_gap}
    return {"kid": control.kid, "tv": control.tv} | neighbour_columns(control.neighbours) | gap


def fld_excess(gap: float | None, controls: Mapping[str, ControlScores]) -> float | None:
    """Return a client's FLD gap above that of its fresh images; None where one is not known."""
    fresh = controls[FRESH].fld_gap if FRESH in controls else None
    return None if gap is None or fresh is None else gap - fresh


def control_rows(
    adaptation: Adaptation,
    new_clients: Sequence[Mapping[str, Any]],
    real: RealData,
    setting: FederationSetup,
) -> list[dict[str, Any]]:
    """Return a row of means over clients for the adapted models and for each control.

    `new_clients`: rows of `new_client_rows`.
    """
    reports, controls = adaptation.reports, adaptation.image_controls
    own = [{"kid": row["kid_after"], "tv": row["tv_after"], **_near(row)} for row in new_clients]
    near = [report.neighbours for report in reports]
    ids, seed = [report.client_id for report in reports], setting.config.seed
    reference = [(real.features[one], setting.reference_positions(one)) for one in ids]
    pooled = _pooled([report.after.features for report in reports], reference, seed)
    rows = [_row(ADAPTED, own, near, seed) | pooled]
    for name in dict.fromkeys(name for some in controls for name in some):
        having = [i for i, some in enumerate(controls) if name in some]
        scores = [controls[i][name] for i in having]
        pooled = _pooled([one.features for one in scores], [reference[i] for i in having], seed)
        near = [one.neighbours for one in scores]
        rows.append(_row(name, [_scores(one) for one in scores], near, seed) | pooled)
    return rows


def _pooled(
    drawn: Sequence[Tensor], reference: Sequence[tuple[Tensor, np.ndarray]], seed: int
) -> dict[str, float | None]:
    """`reference`: features (n, D) and positions (n,) of each client's real images."""
    real, positions = zip(*reference, strict=True)
    found = pooled_precision_recall(drawn, real, seed, positions)
    return dict(zip(("precision", "recall"), found or (None, None), strict=True))


def image_tags(
    rows: Sequence[Mapping[str, Any]], new_clients: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Return precision and recall of the adapted models, mean `fld_excess` and `covered_ratio`.

    `rows` of `control_rows`, `new_clients` with the columns of `with_world`.
    """
    excess = [one["fld_excess"] for one in new_clients if one.get("fld_excess") is not None]
    means = (fmean(excess) if excess else None, covered_ratio(new_clients))
    named = zip(IMAGE_TAGS, (rows[0]["precision"], rows[0]["recall"], *means), strict=True)
    return {tag: repr(value) for tag, value in named if value is not None}


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
