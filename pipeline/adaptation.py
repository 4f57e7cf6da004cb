"""New clients over a client pool: fitted in groups where that is possible, and looked at.

Where a new client trains an embedding alone, a group of them is fitted in one batch and nobody
looks on: their embeddings after each epoch that a curve needs are kept on the clients' side. What
was learned is looked at afterwards, by all workers, as each look stands for itself.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from pipeline.messages import AdaptReport, Drawn, Fitted, Look
from pipeline.pool import ClientPool, in_groups
from pipeline.schema import Config
from spire_core.adapt import AdaptConfig
from spire_core.adapt_together import can_adapt_together


def adapt_clients(
    pool: ClientPool,
    client_ids: list[int],
    weights: np.ndarray,
    settings: AdaptConfig,
    mean_emb: Tensor | None,
    pooled_features: Tensor,
    config: Config,
) -> list[AdaptReport]:
    """Return what new clients tell about their adaptation on the backbone (P,), in their order.

    `pooled_features` (n, D) are features of the pre-training population's held-out images.
    """
    handle = pool.share(weights)
    if not can_adapt_together(config.method.record, config.model):
        return pool.run("adapt", client_ids, handle, settings, mean_emb, pooled_features)
    groups = in_groups(client_ids, settings.group_size)
    told = pool.run("fit_embeddings", groups, handle, settings, mean_emb)
    fitted: list[Fitted] = [client for group in told for client in group]
    wanted = [(f.client_id, e, e in (0, f.kept_epoch)) for f in fitted for e in f.looks]
    batches = in_groups(wanted, config.eval.clients_per_batch)
    looks = pool.run(
        "look",
        [tuple(client_id for client_id, _, _ in batch) for batch in batches],
        handle,
        pooled_features,
        per_unit=[([e for _, e, _ in batch], [w for _, _, w in batch]) for batch in batches],
    )
    seen = iter([look for batch in looks for look in batch])
    return [_report(f, {epoch: next(seen) for epoch in f.looks}) for f in fitted]


def _report(fitted: Fitted, looks: Mapping[int, Look]) -> AdaptReport:
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


def _drawn(look: Look) -> Drawn:
    assert look.drawn is not None  # it was asked for
    return look.drawn
