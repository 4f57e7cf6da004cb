"""Diagnosis of a whole experiment from the records of its stages."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from pipeline.evaluation.diagnosis import (
    MIN_STEPS,
    MIN_TV,
    Diagnosis,
    adaptation_diagnosis,
    backbone_diagnosis,
    consistency_diagnosis,
    embedding_diagnosis,
)
from pipeline.evaluation.scores import CrossClientMatrix, Evaluation, RealData
from pipeline.federation.messages import AdaptReport
from pipeline.federation.setup import FederationSetup
from pipeline.results.result import Pretraining
from spire_core.evaluation.image_metrics import total_variation
from spire_core.federated.messages import steps_per_epoch

EMBEDDINGS = ("own", "zero", "swapped")  # with which a client's held-out loss is taken


def diagnose(
    setting: FederationSetup,
    real: RealData,
    pretraining: Pretraining,
    cross_losses: CrossClientMatrix | None,
    reports: Sequence[AdaptReport],
) -> tuple[Diagnosis, ...]:
    """Return the known failures of an experiment, root causes only.

    Personal parts are checked if the backbone learned, and the matrix's diagonal if the embedding
    is used.
    """
    failure = None
    if pretraining.evaluations:
        last = pretraining.evaluations[-1]
        failure = _of_backbone(pretraining) or _of_own_parts(setting, real, last, cross_losses)
    overfitting = adaptation_diagnosis(reports)
    return tuple(diagnosis for diagnosis in (failure, overfitting) if diagnosis is not None)


def _of_backbone(pretraining: Pretraining) -> Diagnosis | None:
    evaluations = pretraining.evaluations
    heldout = np.array([[loss.own for loss in e.losses] for e in evaluations])
    is_scored = all(score.is_known for e in evaluations for score in e.scores)
    kids = np.array([[score.mean for score in e.scores] for e in evaluations])
    rounds = [e.round_idx for e in evaluations]
    return backbone_diagnosis(pretraining.losses, rounds, heldout, kids if is_scored else None)


def _of_own_parts(
    setting: FederationSetup,
    real: RealData,
    last: Evaluation,
    cross_losses: CrossClientMatrix | None,
) -> Diagnosis | None:
    """Clients with the same kind of data have nothing of their own to learn: no diagnosis."""
    if not _have_trained(setting, last.client_ids) or not _differ(real, last.client_ids):
        return None
    if setting.config.method.record.has_embedding:
        named = ([getattr(loss, name) for loss in last.losses] for name in EMBEDDINGS)
        ignored = embedding_diagnosis(*map(np.array, named))
        if ignored is not None:
            return ignored
    if cross_losses is None:
        return None
    return consistency_diagnosis(cross_losses.values, cross_losses.client_ids)


def _have_trained(setting: FederationSetup, client_ids: Sequence[int]) -> bool:
    """Return whether a client has trained its own part for `MIN_STEPS`, on average over these."""
    config, partition = setting.config, setting.partition
    federation, batch_size = config.federation, config.client.batch_size
    sizes = [len(partition.split(c).train) for c in client_ids]
    epoch = float(np.mean([steps_per_epoch(size, batch_size) for size in sizes]))
    steps = federation.tau or (federation.local_epochs or 0) * epoch
    share = federation.cohort_size / federation.num_clients
    rounds = federation.num_rounds - config.method.first_own_round(federation.num_rounds)
    return rounds * share * steps >= MIN_STEPS


def _differ(real: RealData, client_ids: Sequence[int]) -> bool:
    """Return whether these clients have different classes."""
    pairs = [
        total_variation(p, q) for p, q in combinations([real.mixtures[c] for c in client_ids], 2)
    ]
    return bool(pairs) and float(np.mean(pairs)) >= MIN_TV
