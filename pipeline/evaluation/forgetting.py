"""Forgetting curves: the effect of adaptation on the new client's own score and on the population.

own = KID of new client j's samples against j's held-out data, minus its lowest value so far
(0: still improving).
global = KID of the adapted model's samples against the pre-training population, minus the same
before adaptation. It is 0 by construction if adaptation keeps all weights that existing clients
use.
replaced = KID of the adapted client's samples against the population, minus the population's own
KID before adaptation: the loss if the adapted client alone remains.
prompts = the share of prompts, none of which j showed, that are drawn as asked before adaptation,
minus the same now (below 0: the client gains). An average over noise, since no maximum is taken.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.config.schema import Config
from pipeline.evaluation.scores import Evaluation, pooled_features
from pipeline.federation.messages import AdaptReport
from spire_core.config.method import MethodConfig
from spire_core.evaluation.kid import kid

PROMPTS = "prompt_accuracy"  # a client's score
POOLED_IMAGES = 1000  # of all clients together


@dataclass(frozen=True)
class ForgettingCurve:
    """One new client's curves over its evaluated epochs."""

    client_id: int
    epochs: tuple[int, ...]
    own: tuple[float, ...] | None  # None without KID, as the next two
    lost: tuple[float, ...] | None  # "global"; None without pre-training, as the next one
    replaced: tuple[float, ...] | None
    prompts: tuple[float, ...] | None = None  # with text that a classifier reads


def forgetting_curve(
    report: AdaptReport, method: MethodConfig, population_before: float | None
) -> ForgettingCurve:
    """Return a new client's curves; `population_before`: the population's KID before adaptation."""
    seen = {p.epoch: p.observed for p in report.curve if p.observed is not None}
    above_best = replaced = lost = None
    if all("own_kid" in scores for scores in seen.values()):
        own = np.array([scores["own_kid"] for scores in seen.values()])
        above_best = tuple((own - np.minimum.accumulate(own)).tolist())
        if population_before is not None:
            population = [scores["population_kid"] for scores in seen.values()]
            is_kept = method.record.keeps_backbone
            replaced = tuple(score - population_before for score in population)
            lost = tuple(0.0 if is_kept else score - population[0] for score in population)
    drawn = [scores[PROMPTS] for scores in seen.values() if PROMPTS in scores]
    prompts = tuple(drawn[0] - share for share in drawn) or None
    return ForgettingCurve(report.client_id, tuple(seen), above_best, lost, replaced, prompts)


def population_kid(
    evaluation: Evaluation, held: Mapping[int, Tensor], pooled: Tensor, config: Config
) -> float:
    """Return the population's own KID: the shared model's samples against `pooled` (n, D).

    Where clients do not draw alike, the evaluated clients' samples against their own held-out data,
    of which `held` has features: a few clients cannot draw the data of the others. Each client's
    share of the samples is that of its images in these data. NaN without features.
    """
    drawn = evaluation.drawn[0].features
    if not config.draws_alike:
        own = [held[client_id] for client_id in evaluation.client_ids]
        pooled = pooled_features(own, POOLED_IMAGES, config.seed)
        shares = [len(features) / max(map(len, own)) for features in own]
        some = [
            one.features[: max(1, round(share * len(one.features)))]
            for one, share in zip(evaluation.drawn, shares, strict=True)
        ]
        drawn = torch.cat(some)
    sizes = (config.eval.kid_subset_size, config.eval.kid_num_subsets, config.seed)
    return kid(pooled, drawn, *sizes).mean
