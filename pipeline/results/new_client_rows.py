"""The table of new clients: a row of scores for each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.evaluation.forgetting import ForgettingCurve
from pipeline.evaluation.scores import RealData
from pipeline.federation.messages import OTHER, AdaptReport
from pipeline.results.neighbour_columns import neighbour_columns
from pipeline.results.result import Adaptation
from spire_core.evaluation.image_metrics import total_variation
from spire_core.privacy.guarantee import Guarantee

TEXT_SCORES = ("prompt_accuracy", "style_distance", "retrieved", "retrieval_rank")
TEXT_SCORES += ("copied", "shown_distance")


def new_client_rows(
    adaptation: Adaptation, real: RealData, kid_subset_size: int
) -> list[dict[str, Any]]:
    """Return one row per new client: its scores before adaptation and in the kept state."""
    rows = [
        _new_client_row(report, curve, real, kid_subset_size)
        for report, curve in zip(adaptation.reports, adaptation.curves, strict=True)
    ]
    controls = adaptation.controls or [{}] * len(rows)
    return [row | _control_columns(own) for row, own in zip(rows, controls, strict=True)]


def as_columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return rows as columns, in the order in which rows name them; None where a row has none."""
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: [row.get(key) for row in rows] for key in keys}


def _new_client_row(
    report: AdaptReport, curve: ForgettingCurve, real: RealData, kid_subset_size: int
) -> dict[str, Any]:
    first, kept = report.curve[0].observed or {}, report.scores_after
    floor, mixture = real.floors[report.client_id], real.mixtures[report.client_id]
    num_generated, num_real = len(report.after.features), len(real.features[report.client_id])
    return {
        "client_id": report.client_id,
        "kid_before": first.get("own_kid"),
        "kid_after": kept.get("own_kid"),
        "kid_after_std": kept.get("own_kid_std"),
        "kid_floor": floor.mean if floor.is_known else None,
        "kid_floor_std": floor.std if floor.is_known else None,
        "num_generated": num_generated,
        "num_real": num_real,
        "subset_size": min(kid_subset_size, num_generated, num_real),
        "tv_before": first.get("tv"),
        "tv_after": kept.get("tv"),
        "tv_floor": None
        if report.after.histogram is None
        else _tv_floor(mixture, num_generated, report.client_id),
        "heldout_before": first["heldout_loss"],
        "heldout_after": kept["heldout_loss"],
        "nn_train": report.nn_train,
        "nn_test": report.nn_test,
        **neighbour_columns(report.neighbours),
        **({} if report.fld_gap is None else {"fld_gap": report.fld_gap}),
        "num_trained": report.num_trained,
        "kept_epoch": report.kept_epoch,
        **({} if report.guidance is None else {"guidance": report.guidance}),
        "forgetting_own": None if curve.own is None else curve.own[-1],
        "forgetting_global": None if curve.lost is None else curve.lost[-1],
        "forgetting_replaced": None if curve.replaced is None else curve.replaced[-1],
        **({} if curve.prompts is None else {"forgetting_prompts": curve.prompts[-1]}),
        "fit_duration_s": report.fit_duration_s,
        "duration_s": report.duration_s,
        **_privacy_columns(report.guarantee),
    } | _more_columns(first, kept)


def _more_columns(first: Mapping[str, float], kept: Mapping[str, float]) -> dict[str, float]:
    """Return before and after adaptation the scores of prompts, where there is text, and others."""
    columns = {}
    for name in TEXT_SCORES:
        if name in kept:
            columns |= {f"{name}_before": first[name], f"{name}_after": kept[name]}
    for name in (key.removeprefix(OTHER) for key in kept if key.startswith(OTHER)):
        columns |= {f"{name}_before": first[OTHER + name], f"{name}_after": kept[OTHER + name]}
    if "true_accuracy" in kept:
        columns["true_accuracy"] = kept["true_accuracy"]
    return columns


def _control_columns(controls: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the scores of what the controls draw for a new client's prompts."""
    return {
        f"{name}_{control}": scores[name]
        for control, scores in controls.items()
        for name in TEXT_SCORES
        if name in scores
    }


def _privacy_columns(guarantee: Guarantee | None) -> dict[str, float]:
    if guarantee is None:
        return {}
    return {name: getattr(guarantee, name) for name in ("epsilon", "delta", "noise_multiplier")}


def _tv_floor(mixture: np.ndarray, num_images: int, client_id: int) -> float:
    """Return the mean distance of `num_images` draws from this very mixture (K,) to it."""
    draws = np.random.default_rng(client_id).multinomial(num_images, mixture, size=100) / num_images
    return float(np.mean([total_variation(d, mixture) for d in draws]))
