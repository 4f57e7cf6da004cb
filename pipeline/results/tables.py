"""The tables of a run, one function a table.

Their cells are Python's own numbers (`dtype=object`): a whole number stays whole beside unknown
ones, which are None or NaN, and no digit is lost where a table is stored.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.controls import FRESH
from pipeline.evaluation.scores import Evaluation, RealData
from pipeline.federation.messages import NEAREST_DRAWS, OTHER, AdaptReport, ControlScores
from pipeline.federation.setup import FederationSetup
from pipeline.results.metric_names import FORGETTING
from pipeline.results.result import Adaptation
from spire_core.evaluation.image_metrics import total_variation
from spire_core.evaluation.memorisation import Neighbours, exchange_p
from spire_core.evaluation.precision_recall import pooled_precision_recall
from spire_core.partition.coverage import Coverage, coverages
from spire_core.privacy.membership import ClientScores, auc

TEXT_SCORES = ("prompt_accuracy", "style_distance", "retrieved", "retrieval_rank")
TEXT_SCORES += ("copied", "shown_distance")
NOVEL_SCORES = ("fld", "novel_kid")  # that copies cannot win
AFTER_ALONE = ("elbo", "true_accuracy")
IF_KNOWN = {"guidance", "forgetting_prompts"}  # columns only where a client has them
ADAPTED = "adapted"  # the clients' own images, in the row before the controls
CONTROL_SCORES = ("kid", "tv", "nn_share", "nn_chance", "nn_auc", "fld", "novel_kid")

# --- pre-training clients -------------------------------------------------------------------------


def pretraining_clients(
    evaluation: Evaluation, real: RealData, controls: Sequence[Mapping[str, ControlScores]] = ()
) -> pd.DataFrame:
    """Return a row per evaluated pre-training client; None for a score that is not known.

    With `controls`, as of `Pretraining`, also signs of copies and the scores of each control.
    """
    floors = [real.floors[c] for c in evaluation.client_ids]
    scores, losses = evaluation.scores, evaluation.losses
    columns = {
        "client_id": evaluation.client_ids,
        "kid": [s.mean if s.is_known else None for s in scores],
        "kid_std": [s.std if s.is_known else None for s in scores],
        "kid_floor": [f.mean if f.is_known else None for f in floors],
        "num_real": [s.num_real for s in scores],
        "num_generated": [s.num_fake for s in scores],
        "subset_size": [s.subset_size for s in scores],
        "tv": evaluation.tv or [None] * len(scores),
        "heldout_own": [loss.own for loss in losses],
        "heldout_zero": [loss.zero for loss in losses],
        "heldout_swapped": [loss.swapped for loss in losses],
    }
    rows = []
    for one in map(dict, controls):
        own = one.pop(NEAREST_DRAWS)
        kept = {name: own.scores.get(name) for name in NOVEL_SCORES}
        kept |= _neighbour_scores(own.neighbours)
        rows.append(kept | _beside_controls(one, kept["fld"]))
    return pd.DataFrame(columns, dtype=object).join(pd.DataFrame(rows, dtype=object))


def _beside_controls(
    controls: Mapping[str, ControlScores], own_fld: float | None
) -> dict[str, Any]:
    """Return the scores of a client's controls, and how far its FLD is above that of `FRESH`."""
    row = {
        f"{key}_{name}": value
        for name, control in controls.items()
        for key, value in _control_scores(control).items()
    }
    fresh = row.get(f"fld_{FRESH}")
    above = None if own_fld is None or fresh is None else own_fld - fresh
    return row | {"fld_above_fresh": above}


def cross_clients(matrix: pd.DataFrame, row_name: str, column_name: str) -> pd.DataFrame:
    """Return a row per client (`row_name`) with a value for each client (`column_name`_<id>)."""
    named = matrix.astype(object).add_prefix(f"{column_name}_").set_axis(matrix.index.map(str))
    return named.rename_axis(row_name).reset_index()


# --- new clients ----------------------------------------------------------------------------------


def new_clients(adaptation: Adaptation, real: RealData, kid_subset_size: int) -> pd.DataFrame:
    """Return a row per new client: its scores before adaptation and in the kept state.

    With text, also the scores of what the controls draw for its prompts.
    """
    drawn = adaptation.controls or [{}] * len(adaptation.reports)
    clients = zip(adaptation.reports, adaptation.curves, drawn, strict=True)
    rows = [_new_client(*client, real, kid_subset_size) for client in clients]
    return pd.DataFrame(rows, dtype=object)


def _new_client(
    report: AdaptReport,
    curve: pd.DataFrame,
    drawn: Mapping[str, Mapping[str, float]],
    real: RealData,
    kid_subset_size: int,
) -> dict[str, Any]:
    first, kept, client_id = report.curve[0].observed or {}, report.scores_after, report.client_id
    floor, num_real = real.floors[client_id], len(real.features[client_id])
    num_generated, tv_floor = len(report.after.features), None
    if report.after.histogram is not None:
        tv_floor = _tv_floor(real.mixtures[client_id], num_generated, client_id)
    forgotten = curve.iloc[-1].to_dict()
    row = {
        "client_id": client_id,
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
        "tv_floor": tv_floor,
        "heldout_before": first["heldout_loss"],
        "heldout_after": kept["heldout_loss"],
        "nn_train": report.nn_train,
        "nn_test": report.nn_test,
        **_neighbour_scores(report.neighbours),
        "num_trained": report.num_trained,
        "kept_epoch": report.kept_epoch,
        "guidance": report.guidance,
        **{f"forgetting_{name}": forgotten.get(name) for name in FORGETTING},
        "fit_duration_s": report.fit_duration_s,
        "duration_s": report.duration_s,
    }
    if guarantee := report.guarantee:
        row |= {name: getattr(guarantee, name) for name in ("epsilon", "delta", "noise_multiplier")}
    others = [key for key in kept if key.startswith(OTHER)]
    for key in (*TEXT_SCORES, *others, *NOVEL_SCORES):
        if key in kept:
            name = key.removeprefix(OTHER)
            row |= {f"{name}_before": first.get(key), f"{name}_after": kept[key]}
    row |= {key: kept[key] for key in AFTER_ALONE if key in kept}
    for control, scores in drawn.items():
        row |= {f"{name}_{control}": scores[name] for name in TEXT_SCORES if name in scores}
    return {key: value for key, value in row.items() if value is not None or key not in IF_KNOWN}


def _tv_floor(mixture: np.ndarray, num_images: int, client_id: int) -> float:
    """Return the mean distance of `num_images` draws from this very mixture (K,) to it."""
    draws = np.random.default_rng(client_id).multinomial(num_images, mixture, size=100) / num_images
    return total_variation(draws, mixture)


def with_worlds(
    clients: pd.DataFrame, setting: FederationSetup, adaptation: Adaptation
) -> pd.DataFrame:
    """Return new clients with their numbers of images.

    With `eval.controls` also with who is like them, and the scores of their controls. Other runs,
    whose tags have the mean coverage, do not work it out again at their end.
    """
    has_controls, rows = setting.config.has_controls, list[dict[str, Any]]()
    found = new_client_coverages(setting) if has_controls else []
    by_id = dict(zip(setting.new_ids, found, strict=False))  # of those shown
    for i, report in enumerate(adaptation.reports):
        num_train = len(setting.partition.split(report.client_id).train)
        row: dict[str, Any] = {"num_train": num_train}
        if has_controls:
            covered, controls = by_id.get(report.client_id), adaptation.image_controls[i]
            row["hull_tv"] = covered and covered.hull_tv
            row["nearest_tv"] = covered and covered.nearest_tv
            row |= _beside_controls(controls, report.scores_after.get("fld"))
        rows.append(row)
    return clients.join(pd.DataFrame(rows, dtype=object))


def new_client_coverages(setting: FederationSetup) -> list[Coverage]:
    """Return how far pre-training clients cover each new client's classes.

    With an independent partition the first clients of each kind count, so that distances to all
    pre-training clients are at most these.
    """
    shown = setting.partition.shown
    counts = shown.class_counts(setting.data.labels, len(setting.data.class_names))
    return coverages(counts, len(shown.train_clients))


# --- images that no fit to a new client has drawn -------------------------------------------------


def image_controls(
    adaptation: Adaptation, real: RealData, setting: FederationSetup
) -> pd.DataFrame:
    """Return a row of means over new clients for the adapted models and for each control.

    `nn_p` holds the share of nearest training images against chance. It, precision and recall are
    of all clients' images together.
    """
    seed, rows = setting.config.seed, []
    ids = [report.client_id for report in adaptation.reports]
    drawn = [
        {ADAPTED: _as_control(report)} | dict(controls)
        for report, controls in zip(adaptation.reports, adaptation.image_controls, strict=True)
    ]
    for name in dict.fromkeys(name for own in drawn for name in own):
        having = [client_id for client_id, own in zip(ids, drawn, strict=True) if name in own]
        some = [own[name] for own in drawn if name in own]
        scores = pd.DataFrame([_control_scores(one) for one in some])
        known = {key: scores[key].dropna() for key in CONTROL_SCORES if key in scores}
        pooled = pooled_precision_recall(
            [one.features for one in some],
            [real.features[client_id] for client_id in having],
            seed,
            [setting.reference_positions(client_id) for client_id in having],
        )
        precision, recall = pooled or (None, None)
        row: dict[str, Any] = {"control": name} | dict.fromkeys(CONTROL_SCORES)
        row |= {key: float(np.mean([*values])) for key, values in known.items() if len(values)}
        row |= {"nn_p": pooled_p([one.neighbours for one in some], seed), "num_clients": len(some)}
        rows.append(row | {"precision": precision, "recall": recall})
    return pd.DataFrame(rows, dtype=object)


def _as_control(report: AdaptReport) -> ControlScores:
    """Return the scores of what a new client draws itself."""
    kept, features = report.scores_after, report.after.features
    kid, novel = kept.get("own_kid", math.nan), {k: kept[k] for k in NOVEL_SCORES if k in kept}
    return ControlScores(kid, kept.get("tv"), report.neighbours, novel, features)


def _control_scores(control: ControlScores) -> dict[str, Any]:
    kept = {"kid": control.kid, "tv": control.tv} | _neighbour_scores(control.neighbours)
    return kept | dict(control.scores)


def _neighbour_scores(near: Neighbours | None) -> dict[str, float]:
    """Return the share of nearest training images, that of chance, and how well images tell.

    The AUC is that of a guess which calls an image a training image if a generated one is near.
    """
    if near is None:
        return {}
    reach = ClientScores(-near.train_reach, -near.test_reach)
    return {"nn_share": near.share, "nn_chance": near.chance, "nn_auc": auc(reach)}


def pooled_p(near: Sequence[Neighbours | None], seed: int) -> float | None:
    """Return the p-value over all clients that can be tested; None if none can."""
    known = [one for one in near if one is not None]
    return exchange_p(known, seed) if known else None
