"""Adaptation of new clients over a client pool.

Where a new client trains its embedding alone, a group of clients is fitted in one batch. The
clients' side keeps their embeddings after each epoch that a curve needs. All workers evaluate these
afterwards, since evaluations of different epochs are independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from pipeline.clients.memory import SERVER_ARRAYS
from pipeline.config.schema import Config
from pipeline.evaluation.controls import ControlRule
from pipeline.evaluation.forgetting import forgetting_curve
from pipeline.evaluation.scores import RealData, Scoring, cross_client_kid
from pipeline.experiment.population_scores import population_scores
from pipeline.federation.messages import (
    AdaptReport,
    ControlScores,
    EpochEvaluation,
    FittedClient,
    GeneratedSamples,
)
from pipeline.federation.pool import ClientPool, in_groups
from pipeline.federation.secure_sums import SecureSums, added
from pipeline.federation.setup import FederationSetup
from pipeline.results.result import Adaptation, Pretraining
from spire_core.config.adapt import can_adapt_together
from spire_core.methods import CLIENT_EMB, LOCAL
from spire_core.secure_sum.fixed_point import vector_form

SLICE_ARRAYS = SERVER_ARRAYS // 2  # of masked numbers: the rounds before have had room for twice
Scores = TypeVar("Scores", AdaptReport, ControlScores)


def adapt(
    setting: FederationSetup, real: RealData, pool: ClientPool, pretraining: Pretraining
) -> Adaptation:
    """Fit every new client; return reports, forgetting curves, controls, cross-client matrix."""
    config, seed = setting.config, setting.config.seed
    mean_emb = None
    if config.mean_part == CLIENT_EMB:
        mean_emb = mean_part(setting, pool, CLIENT_EMB, pretraining.weights)
    pooled, before = population_scores(setting, pool, pretraining)
    reports = adapt_clients(pool, setting.new_ids, pretraining.weights, mean_emb, pooled, config)
    reports = [_testable(setting, report.client_id, report) for report in reports]
    curves = [forgetting_curve(report, config.method, before) for report in reports]
    drawn = pretraining.evaluations[-1].drawn if pretraining.evaluations else ()
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
    """Return the mean (n,) of pre-training clients' own parts, from masked parts alone.

    For a client without local layers of its own, those of the backbone `weights` (P,) stand. The
    masked parts come in slices of clients, so that memory does not grow with the clients.
    """
    client_ids, layout = setting.representative_ids, setting.model.layout
    size = setting.config.model.d_emb if part == CLIENT_EMB else layout.part_size(part)
    sums, handle = SecureSums(pool), pool.share(weights)
    plan = sums.open(f"mean {part}", client_ids)
    total = np.zeros(size, dtype=np.uint64)
    for some in in_groups(client_ids, max(1, SLICE_ARRAYS * layout.size // size)):
        total += added(pool.run_all("masked_part", some, plan, part, handle))
    total = sums.close(plan, total, client_ids)
    return torch.from_numpy(vector_form(len(client_ids)).decode(total) / len(client_ids)).float()


def adapt_clients(
    pool: ClientPool,
    client_ids: list[int],
    weights: np.ndarray,
    mean_emb: Tensor | None,
    pooled_features: Tensor,
    config: Config,
) -> list[AdaptReport]:
    """Return new clients' reports of their adaptation on the backbone (P,), in their order.

    `pooled_features` (n, D): features of the pre-training population's held-out images.
    """
    handle, settings = pool.share(weights), config.adapt
    start, clip_norm = (handle, settings, mean_emb), None
    if config.privacy.adapt.is_on and client_ids:  # one for all, whoever computes which client
        [clip_norm] = pool.run_all("clip_norm", client_ids[:1], *start)
    if not can_adapt_together(config.method.record, config.model):
        return pool.run_all("adapt", client_ids, *start, pooled_features, clip_norm)
    groups = in_groups(client_ids, settings.group_size)
    by_group = pool.run_all("fit_embeddings", groups, *start, clip_norm)
    fitted: list[FittedClient] = [client for group in by_group for client in group]
    looks = [look for one in fitted for look in _looks(one)]
    batches = in_groups(looks, config.eval.clients_per_batch)
    by_batch = pool.run_all(
        "look",
        [tuple(look.client_id for look in batch) for batch in batches],
        handle,
        pooled_features,
        per_unit=[tuple(zip(*(look.asks for look in batch), strict=True)) for batch in batches],
    )
    in_order = iter([look for batch in by_batch for look in batch])
    return [_report(one, [next(in_order) for _ in _looks(one)]) for one in fitted]


@dataclass(frozen=True)
class _Look:
    """A look at a new client after some epoch: whether it is whole, and with which guidance."""

    client_id: int
    epoch: int
    is_whole: bool
    guidance: float | None

    @property
    def asks(self) -> tuple[int, bool, float | None]:
        """What a worker is asked beside the client."""
        return self.epoch, self.is_whole, self.guidance


def _looks(fitted: FittedClient) -> list[_Look]:
    """Return the looks at a fitted client: those of its curve, all with the run's guidance.

    A client that has chosen a guidance gets a last one with it, after the kept epoch.
    """
    client_id, kept, own = fitted.client_id, fitted.kept_epoch, fitted.guidance
    whole = {0, kept} if own is None else {0}
    looks = [_Look(client_id, epoch, epoch in whole, None) for epoch in fitted.looks]
    return looks if own is None else [*looks, _Look(client_id, kept, True, own)]


def _report(fitted: FittedClient, seen: Sequence[EpochEvaluation]) -> AdaptReport:
    """Return the report of a fitted client out of what its `_looks` have seen."""
    looks = dict(zip(fitted.looks, seen, strict=False))
    kept = looks[fitted.kept_epoch] if fitted.guidance is None else seen[-1]
    assert kept.distances is not None  # they were asked for
    return AdaptReport(
        client_id=fitted.client_id,
        curve=tuple(
            point if point.observed is None else replace(point, observed=looks[point.epoch].scores)
            for point in fitted.curve
        ),
        kept_epoch=fitted.kept_epoch,
        before=_drawn(looks[0]),
        after=_drawn(kept),
        scores_after=kept.scores,
        heldout={e: look.heldout for e, look in looks.items()} | {fitted.kept_epoch: kept.heldout},
        nn_train=kept.distances[0],
        nn_test=kept.distances[1],
        num_trained=fitted.num_trained,
        fit_duration_s=fitted.fit_duration_s,
        duration_s=fitted.duration_s + sum(look.duration_s for look in seen),
        guarantee=fitted.guarantee,
        neighbours=kept.neighbours,
        fld_gap=kept.fld_gap,
        guidance=fitted.guidance,
    )


def _drawn(look: EpochEvaluation) -> GeneratedSamples:
    assert look.drawn is not None  # it was asked for
    return look.drawn
