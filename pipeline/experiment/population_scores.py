"""The pre-training population's own images and its KID before adaptation, for forgetting.

They are held-out images, whatever the clients' own scores compare with.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.config.schema import Config
from pipeline.evaluation.scores import Evaluation, pooled_features
from pipeline.federation.messages import GeneratedSamples
from pipeline.federation.pool import ClientPool
from pipeline.federation.setup import FederationSetup
from pipeline.results.result import Pretraining
from spire_core.evaluation.kid import kid

POOLED_IMAGES = 1000  # of all clients together


def population_scores(
    setting: FederationSetup, pool: ClientPool, pretraining: Pretraining
) -> tuple[Tensor, float | None]:
    """Return features (n, D) of the population's held-out images, and its own KID to them."""
    ids, config = setting.representative_ids, setting.config
    held = dict(zip(ids, pool.run_all("real_features", ids), strict=True))
    pooled = pooled_features(list(held.values()), POOLED_IMAGES, config.seed)
    if not pretraining.evaluations:
        return pooled, None
    return pooled, population_kid(pretraining.evaluations[-1], held, pooled, config)


def population_kid(
    evaluation: Evaluation, held: Mapping[int, Tensor], pooled: Tensor, config: Config
) -> float:
    """Return the population's own KID: the shared model's samples against `pooled` (n, D).

    Where clients do not draw alike, the evaluated clients' samples against their own data, of which
    `held` has features: a few clients cannot draw the data of the others. Each client's share of
    the samples is that of its images in these data. NaN without features.
    """
    if not config.draws_alike:
        client_features = [held[client_id] for client_id in evaluation.client_ids]
        pooled = pooled_features(client_features, POOLED_IMAGES, config.seed)
        drawn = _drawn_by_size(evaluation.drawn, list(map(len, client_features)))
    else:
        drawn = evaluation.drawn[0].features
    sizes = (config.eval.kid_subset_size, config.eval.kid_num_subsets, config.seed)
    return kid(pooled, drawn, *sizes).mean


def _drawn_by_size(drawn: Sequence[GeneratedSamples], sizes: Sequence[int]) -> Tensor:
    """Return features (n, D) of clients' samples, the fewer of a client the smaller its size."""
    shares = [size / max(sizes) for size in sizes]
    some = [
        one.features[: max(1, round(share * len(one.features)))]
        for one, share in zip(drawn, shares, strict=True)
    ]
    return torch.cat(some)
