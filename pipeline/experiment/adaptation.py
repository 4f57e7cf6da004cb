"""Adaptation over a client pool: new clients are fitted, in groups where possible, and looked at.

Where a new client trains an embedding alone, a group of them is fitted in one batch and nobody
looks on: their embeddings after each epoch that a curve needs are kept on the clients' side. What
was learned is looked at afterwards, by all workers, as each look stands for itself.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pipeline.config.schema import Config
from pipeline.evaluation.forgetting import forgetting_curve
from pipeline.evaluation.scores import (
    Evaluation,
    RealData,
    cross_client_matrix,
    evaluate_tuned,
    pooled_features,
)
from pipeline.federation.messages import (
    AdaptReport,
    EpochEvaluation,
    FittedClient,
    GeneratedSamples,
)
from pipeline.federation.pool import ClientPool, in_groups
from pipeline.results.result import Result
from spire_core.config.adapt import can_adapt_together
from spire_core.evaluation.kid import kid
from spire_core.federated.secure_aggregation import unmask_sum

POOLED_IMAGES = 1000  # of the pre-training population, for forgetting


def tune(result: Result, pool: ClientPool, weights: np.ndarray) -> None:
    """Score the pre-training clients after each has fine-tuned the backbone (P,) by itself."""
    setting, config = result.setting, result.setting.config
    result.tuned = evaluate_tuned(
        pool,
        weights,
        setting.eval_ids,
        [len(setting.partition.split(client_id).train) for client_id in setting.eval_ids],
        config.adapt,
        result.real,
        config.eval,
        config.federation.num_rounds,
        config.seed,
    )


def adapt(result: Result, pool: ClientPool, weights: np.ndarray) -> None:
    """Fit every new client, and work out forgetting curves and the cross-client matrix."""
    setting, config = result.setting, result.setting.config
    method, seed = config.method.record, config.seed
    mean_emb = None
    if method.has_embedding and config.adapt.init == "mean":
        mean_emb = mean_embedding(pool, setting.representative_ids)
    pooled = pooled_features(
        pool.run_all("real_features", setting.representative_ids), POOLED_IMAGES, seed
    )
    result.reports = adapt_clients(pool, setting.new_ids, weights, mean_emb, pooled, config)
    before = None
    if result.evaluations:
        before = population_kid(result.evaluations[-1], result.real, pooled, config)
    result.curves = [forgetting_curve(r, method, before) for r in result.reports]
    drawn = [*(result.evaluations[-1].drawn if result.evaluations else ())]
    drawn += [r.after for r in result.reports]
    ids = [d.client_id for d in drawn]
    if drawn:
        result.matrix = cross_client_matrix(drawn, result.real, ids, config.eval, seed)


def mean_embedding(pool: ClientPool, client_ids: list[int]) -> Tensor:
    """Return the mean embedding (D_emb,) of these clients out of masked ones: nobody sees them."""
    total = unmask_sum(pool.run_all("masked_embedding", client_ids, client_ids))
    return (total / len(client_ids)).float()


def population_kid(evaluation: Evaluation, real: RealData, pooled: Tensor, config: Config) -> float:
    """Return the population's own KID: of the shared model's samples against `pooled` (n, D).

    Of a personal method it is that of the evaluated clients' samples against their own data, since
    a few clients cannot draw what the others hold.
    """
    if config.method.record.is_personal:
        own = [real.features[client_id] for client_id in evaluation.client_ids]
        pooled = pooled_features(own, POOLED_IMAGES, config.seed)
        drawn = torch.cat([d.features for d in evaluation.drawn])
    else:
        drawn = evaluation.drawn[0].features
    sizes = (config.eval.kid_subset_size, config.eval.kid_num_subsets, config.seed)
    return kid(pooled, drawn, *sizes).mean


def adapt_clients(
    pool: ClientPool,
    client_ids: list[int],
    weights: np.ndarray,
    mean_emb: Tensor | None,
    pooled_features: Tensor,
    config: Config,
) -> list[AdaptReport]:
    """Return what new clients tell about their adaptation on the backbone (P,), in their order.

    `pooled_features` (n, D) are features of the pre-training population's held-out images.
    """
    handle, settings = pool.share(weights), config.adapt
    if not can_adapt_together(config.method.record, config.model):
        return pool.run_all("adapt", client_ids, handle, settings, mean_emb, pooled_features)
    groups = in_groups(client_ids, settings.group_size)
    told = pool.run_all("fit_embeddings", groups, handle, settings, mean_emb)
    fitted: list[FittedClient] = [client for group in told for client in group]
    wanted = [(f.client_id, e, e in (0, f.kept_epoch)) for f in fitted for e in f.looks]
    batches = in_groups(wanted, config.eval.clients_per_batch)
    looks = pool.run_all(
        "look",
        [tuple(client_id for client_id, _, _ in batch) for batch in batches],
        handle,
        pooled_features,
        per_unit=[([e for _, e, _ in batch], [w for _, _, w in batch]) for batch in batches],
    )
    seen = iter([look for batch in looks for look in batch])
    return [_report(f, {epoch: next(seen) for epoch in f.looks}) for f in fitted]


def _report(fitted: FittedClient, looks: Mapping[int, EpochEvaluation]) -> AdaptReport:
    kept = looks[fitted.kept_epoch]
    assert kept.distances is not None  # they were asked for
    return AdaptReport(
        fitted.client_id,
        tuple(
            point if point.observed is None else replace(point, observed=looks[point.epoch].scores)
            for point in fitted.curve
        ),
        fitted.kept_epoch,
        _drawn(looks[0]),
        _drawn(kept),
        kept.scores,
        {epoch: look.heldout for epoch, look in looks.items()},
        *kept.distances,
        fitted.num_trained,
        fitted.duration_s + sum(look.duration_s for look in looks.values()),
    )


def _drawn(look: EpochEvaluation) -> GeneratedSamples:
    assert look.drawn is not None  # it was asked for
    return look.drawn
