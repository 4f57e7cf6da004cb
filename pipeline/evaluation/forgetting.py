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

import pandas as pd
import torch
from torch import Tensor

from pipeline.config.schema import Config
from pipeline.evaluation.scores import Evaluation, pooled_features
from pipeline.federation.messages import AdaptReport
from spire_core.config.method import MethodConfig
from spire_core.evaluation.kid import kid

PROMPTS = "prompt_accuracy"  # a client's score
POOLED_IMAGES = 1000  # of all clients together


def forgetting_curve(
    report: AdaptReport, method: MethodConfig, population_before: float | None
) -> pd.DataFrame:
    """Return a new client's curves by evaluated epoch, a column each.

    `own` needs KID, `global` and `replaced` also `population_before`, the population's KID before
    adaptation, and `prompts` text that a classifier reads. A curve that is not known is left out.
    """
    observed = {p.epoch: p.observed for p in report.curve if p.observed is not None}
    seen = pd.DataFrame([*observed.values()], [*observed])
    curve = pd.DataFrame(index=seen.index)
    if "own_kid" in seen:
        curve["own"] = seen["own_kid"] - seen["own_kid"].cummin()
        if population_before is not None:
            population, is_kept = seen["population_kid"], method.record.keeps_backbone
            curve["global"] = 0.0 if is_kept else population - population.iloc[0]
            curve["replaced"] = population - population_before
    if PROMPTS in seen:
        curve["prompts"] = seen[PROMPTS].iloc[0] - seen[PROMPTS]
    return curve


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
