"""Evaluation of the pre-training clients: KID, class histograms and held-out losses per client.

Generation and feature extraction run at the clients; features and losses arrive here.
n, m: numbers of images and clients, D: features, K: classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.federation.messages import GeneratedSamples, HeldoutLosses
from pipeline.federation.pool import ClientPool, in_groups
from spire_core.config.eval import EvalConfig
from spire_core.evaluation.image_metrics import total_variation
from spire_core.evaluation.kid import KidScore, kid, kid_floor, kid_matrix

NUM_POPULATION_DRAWS = 4  # of clients that draw alike: a few draws, pooled
CROSS_CLIENTS = 64  # at most of either kind in the matrix of KIDs, whose time grows with all pairs


@dataclass(frozen=True)
class RealData:
    """The reference for samples, client by client.

    `features` (n, D) of the images of `eval.reference`, its class mixture (K,), and its
    real-against-real floor.
    """

    features: Mapping[int, Tensor]
    mixtures: Mapping[int, np.ndarray]
    floors: Mapping[int, KidScore]

    @classmethod
    def gather(
        cls,
        pool: ClientPool,
        client_ids: Sequence[int],
        mixtures: Mapping[int, np.ndarray],
        config: EvalConfig,
        seed: int,
    ) -> "RealData":
        """Return the reference of these clients.

        The floor uses as many images as are generated, if a client has twice as many.
        """
        per_client: list[Tensor] = pool.run_all("reference_features", client_ids)
        features = dict(zip(client_ids, per_client, strict=True))
        sizes = (config.kid_subset_size, config.kid_num_subsets, seed)
        floors = {
            c: kid_floor(f, *sizes, max_images=config.num_images) for c, f in features.items()
        }
        return cls(features, mixtures, floors)

    def floor_mean(self, client_ids: Sequence[int]) -> float:
        """Return the mean floor of these clients, NaN without features."""
        return float(np.mean([self.floors[c].mean for c in client_ids]))


@dataclass(frozen=True)
class Scoring:
    """The reference, the settings and the seed of a score."""

    real: RealData
    config: EvalConfig
    seed: int

    @property
    def kid_sizes(self) -> tuple[int, int, int]:
        """The arguments of `kid` after the features."""
        return self.config.kid_subset_size, self.config.kid_num_subsets, self.seed


@dataclass(frozen=True)
class CrossClientMatrix:
    """Values (m, m) of each client (row) with each other's data or part (column)."""

    client_ids: tuple[int, ...]
    values: np.ndarray

    @property
    def names(self) -> list[str]:
        """The clients as texts."""
        return [str(client_id) for client_id in self.client_ids]


def pooled_features(features: Sequence[Tensor], limit: int, seed: int) -> Tensor:
    """Return all these clients' features (n, D) together, a random choice of `limit` at most."""
    everything = torch.cat(list(features))
    order = np.random.default_rng(seed % 2**64).permutation(len(everything))[:limit]
    return everything[np.sort(order)]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the pre-training clients, client by client."""

    round_idx: int
    client_ids: tuple[int, ...]
    scores: tuple[KidScore, ...]
    tv: tuple[float, ...] | None
    losses: tuple[HeldoutLosses, ...]
    drawn: tuple[GeneratedSamples, ...]

    def without_samples(self) -> "Evaluation":
        """Return the scores alone: samples grow with clients and images, and few need them."""
        return replace(self, drawn=())

    def without_features(self) -> "Evaluation":
        """Return the scores and images: only the last evaluation's features are read again."""
        drawn = tuple(replace(one, features=one.features[:0]) for one in self.drawn)
        return replace(self, drawn=drawn)

    @property
    def kid_mean(self) -> float:
        """The mean KID of these clients, NaN without features."""
        return float(np.mean([s.mean for s in self.scores]))

    def metrics(self) -> dict[str, float]:
        """Return the few numbers that are tracked over rounds."""
        kids, metrics = [s.mean for s in self.scores if s.is_known], dict[str, float]()
        if kids:
            metrics["pretrain/kid/mean"] = self.kid_mean
            metrics["pretrain/kid/worst"] = max(kids)
            metrics["pretrain/kid/std"] = float(np.std(kids))
        if self.tv is not None:
            metrics["pretrain/tv/mean"] = float(np.mean(self.tv))
        for name in ("own", "zero", "swapped"):
            values = [v for loss in self.losses if (v := getattr(loss, name)) is not None]
            if values:
                metrics[f"pretrain/heldout/{name}"] = float(np.mean(values))
        return metrics


def draw_pretraining(
    pool: ClientPool,
    weights: np.ndarray,
    client_ids: Sequence[int],
    draws_alike: bool,
    round_idx: int,
    scoring: Scoring,
) -> Callable[[], Evaluation]:
    """Let these pre-training clients draw with the backbone (P,); return a function that scores.

    That function needs no client. `draws_alike` as the configuration has it.
    """
    handle = pool.share(weights)
    drawn = _draw_all(pool, handle, client_ids, draws_alike, scoring.config.clients_per_batch)
    swaps = [(client_ids[(i + 1) % len(client_ids)],) for i in range(len(client_ids))]
    losses = pool.run_all("losses", client_ids, handle, per_unit=swaps)
    return partial(score_clients, round_idx, client_ids, drawn, losses, scoring)


def score_clients(
    round_idx: int,
    client_ids: Sequence[int],
    drawn: Sequence[GeneratedSamples],
    losses: Sequence[HeldoutLosses],
    scoring: Scoring,
) -> Evaluation:
    """Return the evaluation of clients' samples and held-out losses."""
    real, sizes = scoring.real, scoring.kid_sizes
    scores = [
        kid(real.features[c], d.features, *sizes) for c, d in zip(client_ids, drawn, strict=True)
    ]
    tv = [
        total_variation(d.histogram, real.mixtures[c])
        for c, d in zip(client_ids, drawn, strict=True)
        if d.histogram is not None
    ]
    return Evaluation(
        round_idx,
        tuple(client_ids),
        tuple(scores),
        tuple(tv) if tv else None,
        tuple(losses),
        tuple(drawn),
    )


def _draw_all(
    pool: ClientPool, weights: Any, client_ids: Sequence[int], draws_alike: bool, group_size: int
) -> list[GeneratedSamples]:
    """Return each client's samples. The batches depend on the list of clients alone.

    A few draws stand for those of clients that draw alike. Their features are pooled, since KID
    is unbiased. Their histograms are not, since TV falls with the number of images.
    """
    chosen = client_ids[:NUM_POPULATION_DRAWS] if draws_alike else client_ids
    groups = pool.run_all("draw", in_groups(chosen, group_size), weights)
    drawn: list[GeneratedSamples] = [one for group in groups for one in group]
    if not draws_alike:
        return drawn
    features = torch.cat([d.features for d in drawn])
    histograms = [d.histogram for d in drawn if d.histogram is not None]
    stacked = np.stack(histograms) if histograms else None
    return [GeneratedSamples(c, features, stacked, drawn[0].images) for c in client_ids]


def cross_client_kid(
    by_old: Sequence[GeneratedSamples], by_new: Sequence[GeneratedSamples], scoring: Scoring
) -> CrossClientMatrix | None:
    """Return KID of samples of client i (row) against the data of client j (column).

    The clients are the first pre-training and the first new ones. None without samples or features.
    """
    drawn = [*by_old[:CROSS_CLIENTS], *by_new[:CROSS_CLIENTS]]
    if not drawn or drawn[0].features.shape[1] == 0:
        return None
    client_ids = tuple(d.client_id for d in drawn)
    fakes = [d.features for d in drawn]
    reals = [scoring.real.features[c] for c in client_ids]
    return CrossClientMatrix(client_ids, kid_matrix(fakes, reals, *scoring.kid_sizes))
