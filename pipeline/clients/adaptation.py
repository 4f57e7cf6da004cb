"""The way of a new client: it fits its own parts to a backbone, is looked at, and is reported on.

A single client is looked at between its epochs, and afterwards with the parts that it keeps. Where
clients train their embeddings in one batch, these are kept after each epoch of interest, and all
looks come afterwards. P: length of the weight vector, n: images, D: features.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.clients.client_data import ClientData
from pipeline.clients.evaluation import ClientEvaluator, Scale
from pipeline.federation.messages import (
    AdaptReport,
    FittedClient,
    GeneratedSamples,
    HeldoutLosses,
    Look,
    LookAt,
)
from spire_core.adaptation.adapt import Adapted, adapt_client, adapt_embeddings, num_trained
from spire_core.adaptation.adapt_privately import (
    NOBODY,
    Protection,
    adapt_privately,
    generated_client,
    public_clip_norm,
)
from spire_core.adaptation.set_aside import set_aside_split
from spire_core.config.adapt import AdaptConfig
from spire_core.evaluation.kid import kernel_distance
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel, initial_weights
from spire_core.privacy.noise import SecretNoise
from spire_core.rng import torch_generator
from spire_core.training.several import is_table, table_of

CHOICE = "guidance"  # the purpose of drawings that choose: no score sees their noise
APART = 0.01  # deviation of several embeddings that start a private fit from zero


class ClientAdapter:
    """Fits new clients on a backbone. It keeps no client: the caller stores private states."""

    def __init__(self, evaluator: ClientEvaluator) -> None:
        self.evaluator, self.context = evaluator, evaluator.context

    # --- before the fit ---

    def start_state(self, client_id: int, init: str, mean_emb: Tensor | None) -> PrivateState:
        """Return a new client's first state."""
        config = self.context.config
        if not config.method.record.has_embedding:
            return PrivateState()
        if init == "random":
            return self.context.new_state(client_id)
        embs = torch.zeros(config.model.num_embs, config.model.d_emb)
        if config.privacy.adapt.is_on and len(embs) > 1:  # equal ones would stay equal
            own = torch_generator(config.seed, "private_start", client_id)
            embs += APART * torch.randn(embs.shape, generator=own)
        emb = mean_emb if init == "mean" else None
        return PrivateState({CLIENT_EMB: table_of(embs) if emb is None else emb})

    def start_weights(self, client_id: int, weights: np.ndarray) -> Tensor:
        """Return the backbone (P,), or without pre-training the client's own first weights."""
        context, config = self.context, self.context.config
        if config.has_backbone:
            return context.on_device(weights)
        channels, seed = context.image_shape[0], config.seed
        own = initial_weights(config.model, config.method, channels, seed, client_id)
        return own.to(context.device)

    def clip_norm(
        self, weights: np.ndarray, settings: AdaptConfig, mean_emb: Tensor | None
    ) -> float:
        """Return the clip norm of all private fits on the backbone (P,).

        It is the given one or, without any client's image, that of images that the backbone
        generates.
        """
        context, config = self.context, self.context.config
        private, lr = config.privacy.adapt, config.private_lr
        if private.clip_norm is not None:
            return private.clip_norm
        assert lr is not None  # a method that trains nothing is refused with a budget
        model, backbone, objective = context.model, context.on_device(weights), context.objective()
        nobody = generated_client(model, backbone, objective, context.image_shape, config.seed)
        start = self.start_state(NOBODY, settings.init, mean_emb)
        return public_clip_norm(model, backbone, nobody, start, private, objective, lr)

    # --- fit ---

    def fit(
        self,
        clients: Sequence[ClientData],
        weights: np.ndarray,
        settings: AdaptConfig,
        mean_emb: Tensor | None,
        pooled: Tensor | None = None,
        clip_norm: float | None = None,
        noise: SecretNoise | None = None,
    ) -> list[tuple[FittedClient, PrivateState]]:
        """Fit new clients on the backbone (P,), privately with a clip norm and noise.

        With features `pooled` (n, D) of the population's held-out images, a single client is looked
        at between its epochs. Without, the clients train embeddings in one batch, and their private
        states have these after each epoch to look at. `look` takes the looks that are asked for.
        """
        began, is_together, context = time.monotonic(), pooled is None, self.context
        config, model, objective = context.config, context.model, context.objective()
        if not config.has_backbone:
            settings = replace(settings, pull=0.0)  # there is nothing shared to be pulled to
        inputs = [context.for_training(client) for client in clients]
        starts = [self.start_state(client.client_id, settings.init, mean_emb) for client in clients]
        start = context.on_device(weights)
        if not is_together:
            start = self.start_weights(clients[0].client_id, weights)
        reference = self.evaluator.reference(start)
        watches = [_Watch(self, client, reference, pooled) for client in clients]
        fit_began, protection = time.monotonic(), None
        if clip_norm is not None and noise is not None:
            private, lr = config.privacy.adapt, config.private_lr
            assert lr is not None  # as above
            num_embs = config.num_client_embs
            protection = Protection(private, clip_norm, noise, lr, settings.eval_every, num_embs)
            adapted = adapt_privately(model, start, inputs, starts, protection, objective, watches)
        elif is_together:
            adapted = adapt_embeddings(model, start, inputs, starts, settings, objective, watches)
        else:
            [client], [own], [watch] = inputs, starts, watches
            adapted = [adapt_client(model, start, client, own, settings, objective, watch)]
        looks_s = sum(look.duration_s for watch in watches for look in watch.looks)
        fit_s = (time.monotonic() - fit_began - looks_s) / len(clients)
        states = [one.state for one in adapted]
        scales = self.choose_guidance(clients, settings, states, start, reference)
        total_s = (time.monotonic() - began - looks_s) / len(clients)
        results = []
        for watch, one, client, scale in zip(watches, adapted, inputs, scales, strict=True):
            fitted = FittedClient(
                client_id=client.client_id,
                curve=one.curve,
                kept_epoch=one.kept_epoch,
                num_trained=num_trained(model, config.model.emb_size),
                fit_duration_s=fit_s,
                duration_s=total_s,
                guarantee=protection and protection.guarantee(len(client.images)),
                guidance=scale,
                looks=tuple(watch.looks),
                asked=_asked(client.client_id, one, scale, is_together),
            )
            results.append((fitted, replace(one.state, guidance=scale, snapshots=watch.embs)))
        return results

    def tune(
        self, client: ClientData, state: PrivateState, weights: np.ndarray, settings: AdaptConfig
    ) -> tuple[GeneratedSamples, HeldoutLosses]:
        """Return samples and held-out loss of a pre-training client that trains on alone.

        It trains what a new client would, in `tune_epochs` passes over all its images, from the
        backbone (P,) and its own parts in `state`. The result of the tuning is discarded.
        """
        context, evaluator, epochs = self.context, self.evaluator, settings.tune_epochs
        start, model = context.on_device(weights), context.model
        settings = replace(settings, epochs=epochs, early_stopping=False, guidance=None)
        own, objective = context.for_training(client), context.objective()
        tuned = adapt_client(model, start, own, state, settings, objective, lambda *_: {}).state
        emb = load_client(model, start, tuned)
        images = evaluator.generate(client, emb, evaluator.reference(start))
        losses = HeldoutLosses(client.client_id, evaluator.heldout_mean(client, emb), None, None)
        return evaluator.samples(client, images), losses

    def choose_guidance(
        self,
        clients: Sequence[ClientData],
        settings: AdaptConfig,
        states: Sequence[PrivateState],
        start: Tensor,
        reference: FlatModel | None,
    ) -> list[Scale]:
        """Return for each fitted client the scale whose drawings are nearest to what it set aside.

        Nearest by KID's MMD, in the extractor's features. Drawings are for the captions of what was
        set aside. All None where the settings name no scales, or the method trains nothing.
        """
        evaluator, scales, config = self.evaluator, settings.guidance, self.context.config
        if scales is None or not config.method.record.adapt_parts:
            return [None] * len(clients)
        for state in states:  # a single one, or embeddings alone
            load_client(self.context.model, start, state)
        embs = [state.parts[CLIENT_EMB] for state in states if CLIENT_EMB in state.parts] or None
        own = [replace(one, split=set_aside_split(one.split, config.seed)) for one in clients]
        reals, distances = [evaluator.real_features(client) for client in own], []
        for scale in scales:
            drawn = evaluator.generate_all(own, embs, reference, [scale] * len(own), CHOICE)
            fakes = [evaluator.extractor.features(images) for images in drawn]
            distances.append([kernel_distance(*pair) for pair in zip(reals, fakes, strict=True)])
        return [scales[at] for at in np.argmin(distances, axis=0)]

    # --- looks ---

    def look(
        self,
        clients: Sequence[ClientData],
        states: Sequence[PrivateState],
        weights: np.ndarray,
        pooled: Tensor,
        asked: Sequence[LookAt],
    ) -> list[Look]:
        """Look on the backbone (P,) at a new client in this state, or at several's embeddings."""
        began, start = time.monotonic(), self.context.on_device(weights)
        loaded = [load_client(self.context.model, start, state) for state in states]
        embs = [emb for emb in loaded if emb is not None] or None
        reference, scales = self.evaluator.reference(start), [ask.guidance for ask in asked]
        drawn = self.evaluator.generate_all(clients, embs, reference, scales)
        drawing_s, looks = (time.monotonic() - began) / len(clients), []
        for client, emb, images, ask in zip(clients, loaded, drawn, asked, strict=True):
            began = time.monotonic() - drawing_s
            looks.append(self.seen(client, images, emb, pooled, ask, began))
        return looks

    def seen(
        self,
        client: ClientData,
        images: Tensor,
        emb: Tensor | None,
        pooled: Tensor,
        ask: LookAt,
        began: float,
    ) -> Look:
        """Return a look at a client, of images (n, C, H, W) that were drawn as it since `began`."""
        evaluator, distances, near = self.evaluator, None, None
        fitted = client.as_fitted(self.context.config)
        samples, heldout = evaluator.samples(client, images), evaluator.heldout(client, emb)
        scores = evaluator.scores(client, images, samples, heldout, pooled)
        config = self.context.config
        if (ask.is_kept or ask.epoch == 0) and config.has_controls:
            scores |= evaluator.novel_scores(fitted, images, samples)
            if config.has_backbone:  # else there is nothing in common before the fit
                scores |= evaluator.bits(client, emb)
        if ask.is_kept:
            distances, near = evaluator.distances(fitted, images), evaluator.near(fitted, images)
            if emb is not None and is_table(emb):
                samples = replace(samples, of_each=evaluator.drawn_with_each(client, emb))
        return Look(
            epoch=ask.epoch,
            guidance=ask.guidance,
            scores=scores,
            heldout=heldout,
            duration_s=time.monotonic() - began,
            drawn=samples if ask.is_kept or ask.epoch == 0 else None,  # others are not read
            distances=distances,
            neighbours=near,
        )


@dataclass
class _Watch:
    """Looks at a new client as it fits or, where nobody is `pooled`, keeps its embeddings.

    `embs`: by epoch.
    """

    adapter: ClientAdapter
    client: ClientData
    reference: FlatModel | None
    pooled: Tensor | None
    embs: dict[int, Tensor] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)

    def __call__(self, epoch: int, model: FlatModel, emb: Tensor | None) -> dict[str, float]:
        """Observe a client after an epoch."""
        emb = None if emb is None else emb.detach()
        if self.pooled is None:
            assert emb is not None  # embeddings alone share a batch
            self.embs[epoch] = emb.cpu().clone()
            return {}
        began, client, adapter = time.monotonic(), self.client, self.adapter
        images = adapter.evaluator.generate(client, emb, self.reference)
        ask = LookAt(client.client_id, epoch)
        self.looks.append(adapter.seen(client, images, emb, self.pooled, ask, began))
        return self.looks[-1].scores


def _asked(client_id: int, adapted: Adapted, scale: Scale, is_together: bool) -> tuple[LookAt, ...]:
    """Return the looks at a fitted client: one of what it keeps, and in a group of its curve."""
    asked, kept = dict[int, LookAt](), LookAt(client_id, adapted.kept_epoch, scale, is_kept=True)
    if is_together:
        seen = (point.epoch for point in adapted.curve if point.observed is not None)
        asked = {epoch: LookAt(client_id, epoch) for epoch in seen}
    if scale is not None:  # the curve is with the run's guidance
        return *asked.values(), kept
    asked[kept.epoch] = kept
    return tuple(asked[epoch] for epoch in sorted(asked))


def report_of(fitted: FittedClient, looks: Sequence[Look]) -> AdaptReport:
    """Return the report of a fitted client out of all looks at it, in their order."""
    began = next(look.scores.get("elbo") for look in looks if look.epoch == 0)
    looks = [_from_start(look, began) for look in looks]
    seen = {look.epoch: look for look in looks if look.guidance is None}
    [kept] = [look for look in looks if look.distances is not None]
    assert seen[0].drawn is not None
    assert kept.drawn is not None
    assert kept.distances is not None
    curve = tuple(
        point if point.observed is None else replace(point, observed=seen[point.epoch].scores)
        for point in fitted.curve
    )
    spent_s = fitted.duration_s + sum(look.duration_s for look in looks)
    of_fit = vars(fitted) | {"curve": curve, "duration_s": spent_s, "looks": (), "asked": ()}
    return AdaptReport(
        **of_fit,
        before=seen[0].drawn,
        after=kept.drawn,
        scores_after=kept.scores,
        heldout={look.epoch: look.heldout for look in looks},
        nn_train=kept.distances[0],
        nn_test=kept.distances[1],
        neighbours=kept.neighbours,
    )


def _from_start(look: Look, began: float | None) -> Look:
    """Return a look whose `elbo` is the change since before the fit, where it was `began`."""
    if began is None or "elbo" not in look.scores:
        return look
    return replace(look, scores={**look.scores, "elbo": look.scores["elbo"] - began})
