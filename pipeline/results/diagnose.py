"""What went wrong in a run, as far as its own numbers tell."""

from itertools import combinations
from typing import TYPE_CHECKING

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
from pipeline.tracking.outbox import read_points
from spire_core.evaluation.image_metrics import total_variation
from spire_core.federated.messages import steps_per_epoch

if TYPE_CHECKING:
    from pipeline.results.result import Result

# --- a whole experiment ---------------------------------------------------------------------------


def diagnose(result: "Result") -> list[Diagnosis]:
    """Return the known failures of an experiment.

    What a failure explains is not named beside it: own parts are not asked about where the backbone
    has learnt nothing, nor is a diagonal where the embedding is ignored.
    """
    found = _of_backbone(result) or _of_own_parts(result)
    overfitting = adaptation_diagnosis(result.reports)
    return [diagnosis for diagnosis in (found, overfitting) if diagnosis is not None]


def _of_backbone(result: "Result") -> Diagnosis | None:
    evaluations = result.evaluations
    if not evaluations:
        return None
    points = read_points(result.run_dir)
    losses = [numbers["pretrain/loss"] for _, numbers in points if "pretrain/loss" in numbers]
    heldout = np.array([[loss.own for loss in e.losses] for e in evaluations])
    kids = np.array([[score.mean for score in e.scores] for e in evaluations])
    return backbone_diagnosis(losses, [e.round_idx for e in evaluations], heldout, kids)


def _of_own_parts(result: "Result") -> Diagnosis | None:
    """Clients with the same kind of data have nothing of their own to learn, and are not asked."""
    if not result.evaluations or not _have_trained(result) or not _differ(result):
        return None
    if result.setting.config.method.record.has_embedding:
        losses = result.evaluations[-1].losses
        named = ([getattr(loss, name) for loss in losses] for name in ("own", "zero", "swapped"))
        ignored = embedding_diagnosis(*map(np.array, named))
        if ignored is not None:
            return ignored
    if result.cross_losses is None:
        return None
    return consistency_diagnosis(result.cross_losses, result.cross_ids)


def _have_trained(result: "Result") -> bool:
    """Return whether an evaluated client has trained its own part for `MIN_STEPS`, on average."""
    config, partition = result.setting.config, result.setting.partition
    federation, batch_size = config.federation, config.client.batch_size
    sizes = [len(partition.split(c).train) for c in result.evaluations[-1].client_ids]
    epoch = float(np.mean([steps_per_epoch(size, batch_size) for size in sizes]))
    steps = federation.tau or (federation.local_epochs or 0) * epoch
    share = federation.cohort_size / federation.num_clients
    rounds = federation.num_rounds - config.method.first_own_round(federation.num_rounds)
    return rounds * share * steps >= MIN_STEPS


def _differ(result: "Result") -> bool:
    """Return whether the evaluated clients have different classes."""
    mixtures = [result.real.mixtures[c] for c in result.evaluations[-1].client_ids]
    pairs = [total_variation(p, q) for p, q in combinations(mixtures, 2)]
    return bool(pairs) and float(np.mean(pairs)) >= MIN_TV
