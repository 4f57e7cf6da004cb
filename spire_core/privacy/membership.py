"""Membership inference: how well scores tell a model's training images from others.

A higher score says "member". Scores come per client as two arrays: those of its training images,
and those of held-out images of the same client. n, m: their numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FALSE_ALARMS = 0.01  # the rate at which hits are counted (Carlini et al. 2022)
LEVEL = 0.95  # of intervals
RESAMPLES = 500


@dataclass(frozen=True, eq=False)
class ClientScores:
    """The scores of one client's training images (n,) and of its held-out images (m,)."""

    members: np.ndarray
    others: np.ndarray


@dataclass(frozen=True)
class AttackResult:
    """Area under the ROC curve and hit rate of an attack, each with its interval.

    `client_aucs` are the areas of single clients, whose mean `auc` is.
    """

    auc: float
    auc_low: float
    auc_high: float
    tpr: float
    tpr_low: float
    tpr_high: float
    client_aucs: tuple[float, ...]


def auc(scores: ClientScores) -> float:
    """Return P[member's score > other's score] + P[equal] / 2, the area under the ROC curve."""
    ordered = np.sort(scores.others)
    below = np.searchsorted(ordered, scores.members, side="left")
    up_to = np.searchsorted(ordered, scores.members, side="right")
    return float((below + up_to).mean() / 2 / len(ordered))


def hit_rate(scores: ClientScores, false_alarms: float = FALSE_ALARMS) -> float:
    """Return the share of members above a threshold that at most this share of others exceeds.

    With fewer than 1 / `false_alarms` others, none may exceed it.
    """
    ordered = np.sort(scores.others)[::-1]
    allowed = int(false_alarms * len(ordered))
    return float((scores.members > ordered[allowed]).mean())


def pooled(clients: Sequence[ClientScores]) -> ClientScores:
    """Return all clients' scores, each standardised by its client's mean and deviation.

    An attacker can do this as well: it takes no knowledge of who is a member.
    """
    members, others = [], []
    for client in clients:
        both = np.concatenate([client.members, client.others])
        scale = both.std() or 1.0
        members.append((client.members - both.mean()) / scale)
        others.append((client.others - both.mean()) / scale)
    return ClientScores(np.concatenate(members), np.concatenate(others))


def evaluate_attack(clients: Sequence[ClientScores], seed: int) -> AttackResult:
    """Return an attack's AUC, the mean over clients, and its hit rate on their pooled scores.

    Intervals: percentile bootstrap over clients and, within each, over its images.
    """
    rng, draws = np.random.default_rng(seed), []
    for _ in range(RESAMPLES):
        drawn = [clients[i] for i in rng.integers(len(clients), size=len(clients))]
        draws.append(_both([_resampled(client, rng) for client in drawn]))
    tails = [100 * (1 - LEVEL) / 2, 100 * (1 + LEVEL) / 2]
    (auc_low, tpr_low), (auc_high, tpr_high) = np.percentile(draws, tails, axis=0)
    auc_mean, tpr = _both(clients)
    aucs = tuple(auc(client) for client in clients)
    return AttackResult(auc_mean, auc_low, auc_high, tpr, tpr_low, tpr_high, aucs)


def _both(clients: Sequence[ClientScores]) -> tuple[float, float]:
    return float(np.mean([auc(client) for client in clients])), hit_rate(pooled(clients))


def _resampled(client: ClientScores, rng: np.random.Generator) -> ClientScores:
    members = client.members[rng.integers(len(client.members), size=len(client.members))]
    others = client.others[rng.integers(len(client.others), size=len(client.others))]
    return ClientScores(members, others)


def best_elsewhere(choices: Sequence[Sequence[ClientScores]]) -> list[ClientScores]:
    """Return for each client the choice whose AUC is highest on the other clients.

    `choices[i][k]` are client k's scores by choice i, such as a timestep. A choice made on the
    client itself would make any attack look better than it is. One client alone gets the mean of
    its standardised scores.
    """
    aucs = np.array([[auc(client) for client in choice] for choice in choices])  # (choices, K)
    num_clients = aucs.shape[1]
    if num_clients == 1:
        flat = [pooled(choice) for choice in choices]
        members = np.mean([choice.members for choice in flat], axis=0)
        return [ClientScores(members, np.mean([choice.others for choice in flat], axis=0))]
    elsewhere = (aucs.sum(axis=1, keepdims=True) - aucs) / (num_clients - 1)
    return [choices[i][k] for k, i in enumerate(elsewhere.argmax(axis=0))]
