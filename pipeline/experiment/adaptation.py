"""The stages on the final backbone: clients that have trained, and the adaptation of new clients.

Each new client is fitted, looked at and reported on. Where it trains its embedding alone, a group
of clients is fitted in one batch, and all looks come afterwards, since looks after different epochs
are independent. A client of other parts is looked at between its epochs, and afterwards with the
parts that it keeps.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.clients.store import ClientStore
from pipeline.evaluation.controls import control_plan
from pipeline.evaluation.forgetting import POOLED_IMAGES, forgetting_curve, population_kid
from pipeline.evaluation.scores import (
    Evaluation,
    RealData,
    cross_client_kid,
    pooled_features,
    score_clients,
)
from pipeline.federation.messages import (
    AdaptReport,
    ControlScores,
    FitPlan,
    FittedClient,
    report_of,
)
from pipeline.federation.pool import ClientPool, collect, in_groups
from pipeline.federation.setup import FederationSetup
from pipeline.results.result import Adaptation, Pretraining
from pipeline.runs.layout import CLIENTS
from spire_core.config.adapt import can_adapt_together
from spire_core.federated.sums import vector_form
from spire_core.methods import CLIENT_EMB, LOCAL

CROSS_CLIENTS = 8  # at most, in the matrix of losses
ADDED_AT_ONCE = 16  # clients whose own parts a worker adds in one call
Scores = TypeVar("Scores", AdaptReport, ControlScores)


# --- the clients that have trained ---


def cross_client_losses(
    setting: FederationSetup, pool: ClientPool, weights: np.ndarray, run_dir: Path
) -> pd.DataFrame | None:
    """Return held-out losses of clients' data (row) with each other's own parts (column) on (P,).

    All entries of a row are taken at the same noise; the diagonal is `HeldoutLosses.own`. The
    clients are the first evaluated ones that have trained an own part; None if there are none.
    """
    method, num_rounds = setting.config.method, setting.config.federation.num_rounds
    if not method.record.is_personal:
        return None
    store, first = ClientStore(run_dir / CLIENTS), method.first_own_round(num_rounds)
    newest = {c: store.newest(c, num_rounds) for c in setting.eval_ids}
    trained = [c for c, path in newest.items() if path is not None and int(path.stem) > first]
    if not trained:
        return None
    ids = trained[:CROSS_CLIENTS]
    return pd.DataFrame(pool.run_all("losses_as", ids, pool.share(weights), ids), ids, ids)


def finetune_clients(
    setting: FederationSetup, real: RealData, pool: ClientPool, weights: np.ndarray
) -> Evaluation:
    """Return scores of pre-training clients, each after it has trained on alone.

    Each trains what a new client would, from the backbone (P,) and its own part if it has one.
    """
    config, ids = setting.config, setting.eval_ids
    results = pool.run_all("draw_tuned", ids, pool.share(weights))
    drawn, losses = zip(*results, strict=True)
    return score_clients(config.federation.num_rounds, ids, drawn, losses, real)


# --- new clients ---


def adapt(
    setting: FederationSetup, real: RealData, pool: ClientPool, pretraining: Pretraining
) -> Adaptation:
    """Fit every new client; return reports, forgetting curves, controls, cross-client matrix."""
    config, settings, weights = setting.config, setting.config.adapt, pretraining.weights
    ids, evaluations = setting.representative_ids, pretraining.evaluations
    held = dict(zip(ids, pool.run_all("real_features", ids), strict=True))
    # Of held-out images, whatever the clients' own scores compare with.
    pooled = pooled_features(list(held.values()), POOLED_IMAGES, config.seed)
    before = population_kid(evaluations[-1], held, pooled, config) if evaluations else None

    is_together = can_adapt_together(config.method.record, config.model)
    plan = FitPlan(weights, pooled, is_together=is_together)
    if config.mean_part == CLIENT_EMB:
        plan = replace(plan, mean_emb=mean_part(setting, pool, CLIENT_EMB, weights))
    if config.privacy.adapt.is_on and setting.new_ids:  # one for all, whoever computes which client
        [clip_norm] = pool.run_all("clip_norm", setting.new_ids[:1], plan)
        plan = replace(plan, clip_norm=clip_norm)
    handle = pool.share(plan)
    groups = in_groups(setting.new_ids, settings.group_size if is_together else 1)
    by_group = pool.run_all("adapt", groups, handle)
    fitted: list[FittedClient] = [client for group in by_group for client in group]

    size = config.eval.clients_per_batch if is_together else 1
    units = in_groups([one.client_id for one in fitted for _ in one.asked], size)
    epochs = in_groups([epoch for one in fitted for epoch in one.asked], size)
    by_unit = pool.run_all("look", units, handle, per_unit=[(own,) for own in epochs])
    later = iter([look for looks in by_unit for look in looks])
    reports = [report_of(one, [next(later) for _ in one.asked]) for one in fitted]
    reports = [_testable(setting, report.client_id, report) for report in reports]

    curves = [forgetting_curve(report, config.method, before) for report in reports]
    drawn = evaluations[-1].drawn if evaluations else ()
    cross_kid = cross_client_kid(drawn, [report.after for report in reports], real)
    has_text = setting.tokens is not None
    controls = pool.run_all("text_controls", setting.new_ids) if has_text else []
    images = []
    if config.has_controls:
        images = image_controls(setting, pool, pool.share(weights), setting.new_ids)
    return Adaptation(tuple(reports), tuple(curves), cross_kid, tuple(controls), tuple(images))


def image_controls(
    setting: FederationSetup, pool: ClientPool, weights: Any, client_ids: Sequence[int]
) -> list[dict[str, ControlScores]]:
    """Return the scores of each client's controls by name, on shared `weights` (P,)."""
    plans = [(control_plan(setting, client_id),) for client_id in client_ids]
    found: list[dict[str, ControlScores]]
    found = pool.run_all("image_controls", client_ids, weights, per_unit=plans)
    return [
        {name: _testable(setting, client_id, own) for name, own in one.items()}
        for client_id, one in zip(client_ids, found, strict=True)
    ]


def _testable(setting: FederationSetup, client_id: int, scores: Scores) -> Scores:
    """Return scores with the classes within which a test exchanges images; without, if none can."""
    if not setting.splits_at_random or scores.neighbours is None:
        return replace(scores, neighbours=None)
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
    ids, name, handle = setting.representative_ids, f"mean {part}", pool.share(weights)

    def compute(groups: Sequence[tuple[int, ...]]) -> None:
        pool.run_all("add_parts", groups, name, part, handle, len(ids))

    found = collect(pool, name, in_groups(ids, ADDED_AT_ONCE), compute)
    return torch.from_numpy(vector_form(len(ids)).decode(found.numbers) / len(ids)).float()
