"""The adaptation of a new client: it fits its own parts to a backbone, scored between epochs.

Images go in, a report and the client's private state come out. P: length of the weight vector,
n: images, D: features, D_emb: numbers of an embedding.
"""

import functools
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from pipeline.clients.client_data import ClientData
from pipeline.clients.copies import signs_of_copies
from pipeline.clients.drawing import Scale
from pipeline.clients.evaluation import ClientEvaluator
from pipeline.clients.guidance import CHOICE, choose_guidance
from pipeline.clients.observer import Observer
from pipeline.federation.messages import (
    AdaptReport,
    EpochEvaluation,
    FittedClient,
    GeneratedSamples,
    HeldoutLosses,
)
from spire_core.adaptation.adapt import Adapted, adapt_client, num_trained
from spire_core.adaptation.adapt_privately import adapt_privately
from spire_core.adaptation.adapt_together import adapt_embeddings
from spire_core.adaptation.private_descent import Protection
from spire_core.config.adapt import AdaptConfig
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel, initial_weights
from spire_core.training.context import ClientContext


class ClientAdapter:
    """Fits new clients on a backbone. It keeps no client: the caller stores private states."""

    def __init__(self, evaluator: ClientEvaluator) -> None:
        self.evaluator, self.context = evaluator, evaluator.context

    @property
    def num_trained(self) -> int:
        """How many numbers a new client trains."""
        return num_trained(self.context.model, self.context.config.model.d_emb)

    def start_state(self, client_id: int, init: str, mean_emb: Tensor | None) -> PrivateState:
        """Return a new client's first state."""
        config = self.context.config
        if not config.method.record.has_embedding:
            return PrivateState()
        if init == "mean" and mean_emb is not None:
            return PrivateState({CLIENT_EMB: mean_emb.clone()})
        if init == "random":
            return self.context.new_state(client_id)
        return PrivateState({CLIENT_EMB: torch.zeros(config.model.d_emb)})

    def adapt(
        self,
        client: ClientData,
        weights: np.ndarray,
        settings: AdaptConfig,
        mean_emb: Tensor | None,
        pooled: Tensor,
        protection: Protection | None = None,
    ) -> tuple[AdaptReport, PrivateState]:
        """Fit a new client on the backbone (P,), scored between epochs.

        `pooled` (n, D): features of the population's held-out images. `protection`: for privacy.
        """
        began, context, client_id = time.monotonic(), self.context, client.client_id
        start = self.start_weights(client_id, weights)
        observer = Observer(self.evaluator, client, self.evaluator.reference(start), pooled)
        inputs = client.for_training(context.config.seed)
        own = self.start_state(client_id, settings.init, mean_emb)
        fit_began = time.monotonic()
        if protection is None:
            objective = context.objective()
            more = (inputs, own, settings, objective, observer)
            adapted = adapt_client(context.model, start, *more)
        else:
            more = ([inputs], [own], protection, context.objective(), [observer])
            [adapted] = adapt_privately(context.model, start, *more)
        fit_duration_s = time.monotonic() - fit_began - observer.spent_s
        fitted = client.as_fitted(context.config)
        kept, scale = observer.kept(adapted, start, settings)
        nn_train, nn_test = self.evaluator.distances(fitted, kept.images)
        neighbours, gap = signs_of_copies(self.evaluator, fitted, kept.images, kept.samples)
        report = AdaptReport(
            client_id=client_id,
            curve=adapted.curve,
            kept_epoch=adapted.kept_epoch,
            before=observer.first,
            after=kept.samples,
            scores_after=kept.scores,
            heldout=observer.heldout | {adapted.kept_epoch: kept.heldout},
            nn_train=nn_train,
            nn_test=nn_test,
            num_trained=self.num_trained,
            fit_duration_s=fit_duration_s,
            duration_s=time.monotonic() - began,
            guarantee=protection and protection.guarantee(len(inputs.images)),
            neighbours=neighbours,
            fld_gap=gap,
            guidance=scale,
        )
        return report, replace(adapted.state, guidance=scale)

    def start_weights(self, client_id: int, weights: np.ndarray) -> Tensor:
        """Return the backbone (P,), or without pre-training the client's own first weights."""
        context, config = self.context, self.context.config
        if config.has_backbone:
            return context.on_device(weights)
        settings = (config.model, config.method, context.image_shape[0], config.seed)
        return initial_weights(*settings, client_id).to(context.device)

    def fit_embeddings(
        self,
        clients: Sequence[ClientData],
        weights: np.ndarray,
        settings: AdaptConfig,
        mean_emb: Tensor | None,
        protection: Protection | None = None,
    ) -> list[tuple[FittedClient, PrivateState]]:
        """Fit new clients' embeddings on the backbone (P,) in one batch, without scores.

        A private state includes the embedding after every epoch to evaluate.
        """
        began, context = time.monotonic(), self.context
        snapshots = [dict[int, Tensor]() for _ in clients]
        inputs = [client.for_training(context.config.seed) for client in clients]
        starts = [self.start_state(one.client_id, settings.init, mean_emb) for one in clients]
        observers = [functools.partial(_remember, kept) for kept in snapshots]
        fits = (context.model, context.on_device(weights), inputs, starts)
        more = (context.objective(), observers)
        fit_began = time.monotonic()
        if protection is None:
            adapted = adapt_embeddings(*fits, settings, *more)
        else:
            adapted = adapt_privately(*fits, protection, *more)
        fit_duration_s = (time.monotonic() - fit_began) / len(clients)
        embs = [one.state.parts[CLIENT_EMB] for one in adapted]
        scales = choose_guidance(
            self.evaluator,
            clients,
            settings,
            lambda own, scale: self.evaluator.generate_together(
                own, embs, [scale] * len(own), CHOICE
            ),
        )
        duration_s = (time.monotonic() - began) / len(clients)
        results = zip(inputs, adapted, snapshots, scales, strict=True)
        return [self._fitted(*result, fit_duration_s, duration_s, protection) for result in results]

    def _fitted(
        self,
        client: ClientContext,
        result: Adapted,
        snapshots: dict[int, Tensor],
        scale: Scale,
        fit_duration_s: float,
        duration_s: float,
        protection: Protection | None,
    ) -> tuple[FittedClient, PrivateState]:
        kept_epoch = result.kept_epoch
        kept = {kept_epoch: result.state.parts[CLIENT_EMB].clone()}
        looks = {p.epoch for p in result.curve if p.observed is not None}
        looks |= {kept_epoch} if scale is None else set()  # with its own scale it is looked at last
        fields = (kept_epoch, tuple(sorted(looks)), self.num_trained, fit_duration_s, duration_s)
        guarantee = protection and protection.guarantee(len(client.images))
        report = FittedClient(client.client_id, result.curve, *fields, guarantee, scale)
        return report, replace(result.state, snapshots=snapshots | kept, guidance=scale)

    def look(
        self,
        clients: Sequence[ClientData],
        embs: Sequence[Tensor],
        weights: np.ndarray,
        pooled: Tensor,
        is_whole: Sequence[bool],
        scales: Sequence[Scale],
    ) -> list[EpochEvaluation]:
        """Evaluate new clients with these embeddings (D_emb,) on the backbone (P,).

        Images are generated as one batch, with the guidance `scales`. `is_whole`: whether to return
        samples and distances too.
        """
        began, looks = time.monotonic(), []
        self.context.model.load(self.context.on_device(weights))
        batch = self.evaluator.generate_together(clients, embs, scales)
        generated_s = (time.monotonic() - began) / len(clients)
        for client, emb, images, whole in zip(clients, embs, batch, is_whole, strict=True):
            began = time.monotonic()
            seen = self.evaluator.observe(client, images, emb.to(self.context.device), pooled)
            fitted = client.as_fitted(self.context.config)
            distances = self.evaluator.distances(fitted, images) if whole else None
            of = (self.evaluator, fitted, images, seen.samples)
            near, gap = signs_of_copies(*of) if whole else (None, None)
            more = (seen.heldout, distances, generated_s + time.monotonic() - began, near, gap)
            looks.append(EpochEvaluation(seen.samples if whole else None, seen.scores, *more))
        return looks

    def tune(
        self, client: ClientData, state: PrivateState, weights: np.ndarray, settings: AdaptConfig
    ) -> tuple[GeneratedSamples, HeldoutLosses]:
        """Return samples and held-out loss of a pre-training client that trains on alone.

        It trains what a new client would, in `tune_epochs` passes over all its images, from the
        backbone (P,) and its own parts in `state`. The result of the tuning is discarded.
        """
        context, evaluator = self.context, self.evaluator
        start = context.on_device(weights)
        alone = {"early_stopping": False, "guidance": None}
        epochs = replace(settings, epochs=settings.tune_epochs, **alone)
        objective = context.objective()
        more = (client.for_training(context.config.seed), state, epochs, objective)
        tuned = adapt_client(context.model, start, *more, observe_nothing).state
        emb = load_client(context.model, start, tuned)
        images = evaluator.generate(client, emb, evaluator.reference(start))
        own = evaluator.heldout_mean(client, emb)
        losses = HeldoutLosses(client.client_id, own, None, None)
        return evaluator.samples(client, images), losses


def _remember(
    snapshots: dict[int, Tensor], epoch: int, model: FlatModel, emb: Tensor | None
) -> dict[str, float]:
    """Keep a new client's embedding after an epoch; it is scored later."""
    assert emb is not None
    snapshots[epoch] = emb.detach().cpu().clone()
    return {}


def observe_nothing(epoch: int, model: FlatModel, emb: Tensor | None) -> dict[str, float]:
    """Observe nothing of a client that trains."""
    return {}
