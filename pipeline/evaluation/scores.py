"""Evaluation of the pre-training clients: KID, class histograms and held-out losses per client.

Generation and feature extraction run at the clients; features and losses arrive here.
n, m: numbers of images and clients, D: features, K: classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.federation.messages import GeneratedSamples, HeldoutLosses
from pipeline.federation.pool import ClientPool, in_groups
from pipeline.federation.setup import FederationSetup
from spire_core.evaluation.image_metrics import total_variation
from spire_core.evaluation.kid import KidScore, kid, kid_floor, kid_matrix

NUM_POPULATION_DRAWS = 4  # of clients that draw alike: a few draws, pooled
CROSS_CLIENTS = 64  # at most of either kind in the matrix of KIDs, whose time grows with all pairs


@dataclass(frozen=True)
class RealData:
    """The reference for samples, client by client.

    `features` (n, D) of the images of `eval.reference`, its class mixture (K,), and its
    real-against-real floor. `kid_sizes`: the arguments of `kid` after the features.
    """

    features: Mapping[int, Tensor]
    mixtures: Mapping[int, np.ndarray]
    floors: Mapping[int, KidScore]
    kid_sizes: tuple[int, int, int]

    @classmethod
    def gather(cls, pool: ClientPool, setting: FederationSetup) -> "RealData":
        """Return the reference of all clients that have scores.

        The floor uses as many images as are generated, if a client has twice as many.
        """
        config, ids = setting.config.eval, setting.eval_ids + setting.new_ids
        per_client: list[Tensor] = pool.run_all("reference_features", ids)
        features = dict(zip(ids, per_client, strict=True))
        sizes = (config.kid_subset_size, config.kid_num_subsets, setting.config.seed)
        most = config.num_images
        floors = {c: kid_floor(own, *sizes, max_images=most) for c, own in features.items()}
        return cls(features, setting.mixtures, floors, sizes)

    def floor_mean(self, client_ids: Sequence[int]) -> float:
        """Return the mean floor of these clients, NaN without features."""
        return float(np.mean([self.floors[c].mean for c in client_ids]))


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


def evaluate_pretraining(
    setting: FederationSetup, real: RealData, pool: ClientPool, weights: np.ndarray, round_idx: int
) -> Evaluation:
    """Let pre-training clients draw with the backbone (P,); return their evaluation.

    The batches depend on the list of clients alone. A few draws stand for those of clients that
    draw alike. Their features are pooled, since KID is unbiased. Their histograms are not, since TV
    falls with the number of images.
    """
    config, client_ids, handle = setting.config, setting.eval_ids, pool.share(weights)
    chosen = client_ids[:NUM_POPULATION_DRAWS] if config.draws_alike else client_ids
    groups = pool.run_all("draw", in_groups(chosen, config.eval.clients_per_batch), handle)
    drawn: list[GeneratedSamples] = [one for group in groups for one in group]
    if config.draws_alike:
        features = torch.cat([d.features for d in drawn])
        histograms = [d.histogram for d in drawn if d.histogram is not None]
        stacked = np.stack(histograms) if histograms else None
        few = drawn[0].images
        drawn = [GeneratedSamples(c, features, stacked, few) for c in client_ids]
    swaps = [(client_ids[(i + 1) % len(client_ids)],) for i in range(len(client_ids))]
    losses = pool.run_all("losses", client_ids, handle, per_unit=swaps)
    return score_clients(round_idx, client_ids, drawn, losses, real)


def score_clients(
    round_idx: int,
    client_ids: Sequence[int],
    drawn: Sequence[GeneratedSamples],
    losses: Sequence[HeldoutLosses],
    real: RealData,
) -> Evaluation:
    """Return the evaluation of clients' samples and held-out losses."""
    pairs = [*zip(client_ids, drawn, strict=True)]
    scores = [kid(real.features[c], d.features, *real.kid_sizes) for c, d in pairs]
    classes = [(d.histogram, real.mixtures[c]) for c, d in pairs if d.histogram is not None]
    tv = tuple(total_variation(histogram, mixture) for histogram, mixture in classes)
    return Evaluation(
        round_idx, tuple(client_ids), tuple(scores), tv or None, tuple(losses), tuple(drawn)
    )


def cross_client_kid(
    by_old: Sequence[GeneratedSamples], by_new: Sequence[GeneratedSamples], real: RealData
) -> pd.DataFrame | None:
    """Return KID of samples of client i (row) against the data of client j (column).

    The clients are the first pre-training and the first new ones. None without samples or features.
    """
    drawn = [*by_old[:CROSS_CLIENTS], *by_new[:CROSS_CLIENTS]]
    if not drawn or drawn[0].features.shape[1] == 0:
        return None
    ids = [d.client_id for d in drawn]
    fakes, reals = [d.features for d in drawn], [real.features[c] for c in ids]
    return pd.DataFrame(kid_matrix(fakes, reals, *real.kid_sizes), ids, ids)
