"""A new client's side: it fits its own parts to a backbone and is scored between epochs."""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.clients.evaluation import EvaluationTasks
from pipeline.federation.messages import (
    AdaptReport,
    EpochEvaluation,
    FittedClient,
    GeneratedSamples,
    HeldoutLosses,
)
from spire_core.adaptation.adapt import adapt_client, num_trained
from spire_core.adaptation.adapt_together import adapt_embeddings
from spire_core.config.adapt import AdaptConfig
from spire_core.federated.private_state import PrivateState, load_client, new_private_state
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel, initial_weights


@dataclass(frozen=True, eq=False)
class _Observation:
    """A new client's samples, all its images (m, C, H, W), its scores and held-out losses (n,)."""

    samples: GeneratedSamples
    images: Tensor
    scores: dict[str, float]
    heldout: Tensor


class AdaptationTasks(EvaluationTasks):
    """Tasks of new clients."""

    def start_state(self, client_id: int, init: str, mean_emb: Tensor | None) -> PrivateState:
        """Return a new client's first state: the zero, mean or random embedding, or no part."""
        config = self.config
        if not config.method.record.has_embedding:
            return PrivateState()
        if init == "mean" and mean_emb is not None:
            return PrivateState({CLIENT_EMB: mean_emb.clone()})
        if init == "random":
            return new_private_state(
                self.model, config.client, config.model.d_emb, config.seed, client_id
            )
        return PrivateState({CLIENT_EMB: torch.zeros(config.model.d_emb)})

    def fit_embeddings(
        self,
        client_ids: Sequence[int],
        weights: np.ndarray,
        settings: AdaptConfig,
        mean_emb: Tensor | None,
    ) -> list[FittedClient]:
        """Fit new clients' embeddings on the backbone (P,) in one batch; keep them here.

        Each also keeps its embedding after every epoch to evaluate.
        """
        began, config = time.monotonic(), self.config
        snapshots = [dict[int, Tensor]() for _ in client_ids]
        adapted = adapt_embeddings(
            self.model,
            torch.tensor(weights, device=self.device),
            [self.training_context(client_id) for client_id in client_ids],
            [self.start_state(client_id, settings.init, mean_emb) for client_id in client_ids],
            settings,
            self.objective(),
            [functools.partial(_remember, kept) for kept in snapshots],
        )
        duration_s = (time.monotonic() - began) / len(client_ids)
        fitted = []
        for client_id, result, kept in zip(client_ids, adapted, snapshots, strict=True):
            kept[result.kept_epoch] = result.state.parts[CLIENT_EMB].clone()
            self.store.save(client_id, 0, replace(result.state, snapshots=kept))
            looks = {p.epoch for p in result.curve if p.observed is not None} | {result.kept_epoch}
            trained = num_trained(self.model, config.model.d_emb)
            fields = (result.curve, result.kept_epoch, tuple(sorted(looks)), trained, duration_s)
            fitted.append(FittedClient(client_id, *fields))
        return fitted

    def look(
        self,
        client_ids: Sequence[int],
        weights: np.ndarray,
        pooled_features: Tensor,
        epochs: Sequence[int],
        is_whole: Sequence[bool],
    ) -> list[EpochEvaluation]:
        """Return new clients' samples and scores on the backbone (P,) after some epochs.

        Images are generated as one batch. `epochs` and `is_whole` (whether to return samples and
        distances too) correspond to `client_ids`, which may repeat a client.
        """
        began, looks = time.monotonic(), []
        self.model.load(torch.tensor(weights, device=self.device))
        states = [self.private_state(client_id) for client_id in client_ids]
        embs = [state.snapshots[epoch] for state, epoch in zip(states, epochs, strict=True)]
        images = self._images_together(client_ids, embs)
        drawn_s = (time.monotonic() - began) / len(client_ids)
        for client_id, emb, own, whole in zip(client_ids, embs, images, is_whole, strict=True):
            began = time.monotonic()
            drawn = self._drawn(client_id, own)
            heldout = self._heldout_each(client_id, emb.to(self.device))
            scores = self._scores(drawn, heldout, pooled_features)
            distances = self._distances(client_id, own) if whole else None
            duration_s = drawn_s + time.monotonic() - began
            looks.append(
                EpochEvaluation(drawn if whole else None, scores, heldout, distances, duration_s)
            )
        return looks

    def adapt(
        self,
        client_id: int,
        weights: np.ndarray,
        settings: AdaptConfig,
        mean_emb: Tensor | None,
        pooled_features: Tensor,
    ) -> AdaptReport:
        """Fit a new client on the backbone (P,), scored between epochs; keep its own parts here.

        `pooled_features` (n, D) are features of the pre-training population's held-out images.
        """
        began, config = time.monotonic(), self.config
        start = torch.tensor(weights, device=self.device)
        if not config.method.record.is_federated:
            start = initial_weights(
                config.model, config.method, self.images.shape[1], config.seed, client_id
            ).to(self.device)
        observer = _Observer(self, client_id, self._reference(start), pooled_features)
        adapted = adapt_client(
            self.model,
            start,
            self.training_context(client_id),
            self.start_state(client_id, settings.init, mean_emb),
            settings,
            self.objective(batch_size=settings.batch_size),
            observer,
        )
        self.store.save(client_id, 0, adapted.state)
        if observer.last_epoch == adapted.kept_epoch:  # as always without early stopping
            kept = observer.last
        else:
            kept = observer.observe(self.model, load_client(self.model, start, adapted.state))
        return AdaptReport(
            client_id,
            adapted.curve,
            adapted.kept_epoch,
            observer.first,
            kept.samples,
            kept.scores,
            observer.heldout | {adapted.kept_epoch: kept.heldout},
            *self._distances(client_id, kept.images),
            num_trained(self.model, config.model.d_emb),
            time.monotonic() - began,
        )

    def draw_tuned(
        self, client_id: int, weights: np.ndarray, settings: AdaptConfig
    ) -> tuple[GeneratedSamples, HeldoutLosses]:
        """Return samples and held-out loss of a pre-training client that fine-tunes the backbone.

        The client takes `tune_epochs` passes over all its images, from the backbone (P,). Nothing
        is kept.
        """
        start = torch.tensor(weights, device=self.device)
        epochs = replace(settings, epochs=settings.tune_epochs, early_stopping=False)
        objective = self.objective(batch_size=settings.batch_size)
        client = self.training_context(client_id)
        more = (PrivateState(), epochs, objective, _observe_nothing)
        adapt_client(self.model, start, client, *more)
        images = self._images(client_id, self.model, None, self._reference(start))
        losses = HeldoutLosses(client_id, self._heldout(client_id, None), None, None)
        return self._drawn(client_id, images), losses


def _remember(
    snapshots: dict[int, Tensor], epoch: int, model: FlatModel, emb: Tensor | None
) -> dict[str, float]:
    """Keep a new client's embedding after an epoch; it is scored later."""
    assert emb is not None
    snapshots[epoch] = emb.detach().cpu().clone()
    return {}


def _observe_nothing(epoch: int, model: FlatModel, emb: Tensor | None) -> dict[str, float]:
    """Observe nothing of a client that fine-tunes."""
    return {}


class _Observer:
    """Scores a new client between its epochs; keeps its first samples (before adaptation)."""

    def __init__(
        self,
        worker: AdaptationTasks,
        client_id: int,
        reference: FlatModel | None,
        pooled_features: Tensor,
    ) -> None:
        self.worker, self.client_id = worker, client_id
        self.reference, self.pooled_features = reference, pooled_features
        self.first: GeneratedSamples
        self.last: _Observation
        self.last_epoch = -1
        self.heldout: dict[int, Tensor] = {}

    def __call__(self, epoch: int, model: FlatModel, emb: Tensor | None) -> dict[str, float]:
        """Observe an epoch and remember it; return its scores."""
        seen = self.observe(model, None if emb is None else emb.detach())
        self.last, self.last_epoch, self.heldout[epoch] = seen, epoch, seen.heldout
        if epoch == 0:
            self.first = seen.samples
        return seen.scores

    def observe(self, model: FlatModel, emb: Tensor | None) -> _Observation:
        """Generate images as the client, with the model as it is, and score them."""
        images = self.worker._images(self.client_id, model, emb, self.reference)
        samples = self.worker._drawn(self.client_id, images)
        heldout = self.worker._heldout_each(self.client_id, emb)
        scores = self.worker._scores(samples, heldout, self.pooled_features)
        return _Observation(samples, images, scores, heldout)
