"""Adaptation of new clients over a client pool.

Each client is fitted, looked at and reported on. Where a new client trains its embedding alone, a
group of clients is fitted in one batch. The clients' side keeps their embeddings after each epoch
that a curve needs. All workers look at these afterwards, since looks after different epochs are
independent.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.clients.adaptation import report_of
from pipeline.config.schema import Config
from pipeline.evaluation.controls import ControlRule
from pipeline.evaluation.forgetting import POOLED_IMAGES, forgetting_curve, population_kid
from pipeline.evaluation.scores import RealData, Scoring, cross_client_kid, pooled_features
from pipeline.federation.messages import AdaptReport, ControlScores, FittedClient
from pipeline.federation.pool import ClientPool, collect, in_groups
from pipeline.federation.setup import FederationSetup
from pipeline.results.result import Adaptation, Pretraining
from spire_core.config.adapt import can_adapt_together
from spire_core.federated.sums import HiddenSum, vector_form
from spire_core.methods import CLIENT_EMB, LOCAL

ADDED_AT_ONCE = 16  # clients whose own parts a worker adds in one call
Scores = TypeVar("Scores", AdaptReport, ControlScores)


def adapt(
    setting: FederationSetup, real: RealData, pool: ClientPool, pretraining: Pretraining
) -> Adaptation:
    """Fit every new client; return reports, forgetting curves, controls, cross-client matrix."""
    config, seed = setting.config, setting.config.seed
    mean_emb = None
    if config.mean_part == CLIENT_EMB:
        mean_emb = mean_part(setting, pool, CLIENT_EMB, pretraining.weights)
    ids, evaluations = setting.representative_ids, pretraining.evaluations
    held = dict(zip(ids, pool.run_all("real_features", ids), strict=True))
    # Of held-out images, whatever the clients' own scores compare with.
    pooled = pooled_features(list(held.values()), POOLED_IMAGES, seed)
    before = population_kid(evaluations[-1], held, pooled, config) if evaluations else None
    reports = adapt_clients(pool, setting.new_ids, pretraining.weights, mean_emb, pooled, config)
    reports = [_testable(setting, report.client_id, report) for report in reports]
    curves = [forgetting_curve(report, config.method, before) for report in reports]
    drawn = evaluations[-1].drawn if evaluations else ()
    after = [report.after for report in reports]
    cross_kid = cross_client_kid(drawn, after, Scoring(real, config.eval, seed))
    has_text = setting.tokens is not None
    controls = pool.run_all("text_controls", setting.new_ids) if has_text else []
    images = _image_controls(setting, pool, pretraining.weights) if config.has_controls else []
    return Adaptation(tuple(reports), tuple(curves), cross_kid, tuple(controls), tuple(images))


def _image_controls(
    setting: FederationSetup, pool: ClientPool, weights: np.ndarray
) -> list[dict[str, ControlScores]]:
    """Return the scores of each new client's controls by name."""
    config = setting.config
    rule = ControlRule(
        setting.partition,
        setting.data.labels,
        len(setting.data.class_names),
        setting.representative_ids,
        config.partition.style,
        config.method.record.is_personal,
        config.eval.num_images,
        config.seed,
        config.sets_aside,
    )
    plans = [(rule.plan(client_id),) for client_id in setting.new_ids]
    handle, ids = pool.share(weights), setting.new_ids
    found: list[dict[str, ControlScores]]
    found = pool.run_all("image_controls", ids, handle, per_unit=plans)
    return [
        {name: _testable(setting, client_id, own) for name, own in one.items()}
        for client_id, one in zip(ids, found, strict=True)
    ]


def _testable(setting: FederationSetup, client_id: int, scores: Scores) -> Scores:
    """Return scores with the classes within which a test exchanges images; without, if none can."""
    if not setting.splits_at_random or scores.neighbours is None:
        return replace(scores, neighbours=None, fld_gap=None)
    near = replace(scores.neighbours, classes=setting.fitted_classes(client_id))
    return replace(scores, neighbours=near)


def with_mean_layers(
    setting: FederationSetup, pool: ClientPool, pretraining: Pretraining
) -> Pretraining:
    """Return a pre-training whose backbone has the mean of the clients' local layers, if asked for.

    Of these layers, the backbone otherwise has the last copy that the clients shared.
    """
    if setting.config.mean_part != LOCAL:
        return pretraining
    weights = pretraining.weights.copy()
    mean = mean_part(setting, pool, LOCAL, weights)
    weights[setting.model.layout.parts[LOCAL]] = mean.numpy()
    return replace(pretraining, weights=weights)


def mean_part(setting: FederationSetup, pool: ClientPool, part: str, weights: np.ndarray) -> Tensor:
    """Return the mean (n,) of pre-training clients' own parts, of which the sum alone comes here.

    For a client without local layers of its own, those of the backbone `weights` (P,) stand.
    """
    ids, layout = setting.representative_ids, setting.model.layout
    size = setting.config.model.d_emb if part == CLIENT_EMB else layout.part_size(part)
    name, handle = f"mean {part}", pool.share(weights)

    def compute(groups: Sequence[tuple[int, ...]]) -> None:
        pool.run_all("add_parts", groups, name, part, handle, len(ids))

    def total() -> HiddenSum | None:
        return pool.combined(name, "vector_total", size)

    found = collect(pool, in_groups(ids, ADDED_AT_ONCE), compute, total)
    return torch.from_numpy(vector_form(len(ids)).decode(found.numbers) / len(ids)).float()


def adapt_clients(
    pool: ClientPool,
    client_ids: list[int],
    weights: np.ndarray,
    mean_emb: Tensor | None,
    pooled: Tensor,
    config: Config,
) -> list[AdaptReport]:
    """Return new clients' reports of their adaptation on the backbone (P,), in their order.

    `pooled` (n, D): features of the pre-training population's held-out images.
    """
    handle, settings, clip_norm = pool.share(weights), config.adapt, None
    if config.privacy.adapt.is_on and client_ids:  # one for all, whoever computes which client
        [clip_norm] = pool.run_all("clip_norm", client_ids[:1], handle, settings, mean_emb)
    is_together = can_adapt_together(config.method.record, config.model)
    groups = in_groups(client_ids, settings.group_size if is_together else 1)
    looks_at = None if is_together else pooled  # between epochs, else afterwards
    by_group = pool.run_all("adapt", groups, handle, settings, mean_emb, looks_at, clip_norm)
    fitted: list[FittedClient] = [client for group in by_group for client in group]
    asked = [ask for one in fitted for ask in one.asked]
    batches = in_groups(asked, config.eval.clients_per_batch)
    units = [tuple(ask.client_id for ask in batch) for batch in batches]
    by_batch = pool.run_all("look", units, handle, pooled, per_unit=[(batch,) for batch in batches])
    later = iter([look for batch in by_batch for look in batch])
    return [report_of(one, [*one.looks, *(next(later) for _ in one.asked)]) for one in fitted]
