"""The evaluation of one client: drawn images, their scores and controls, and held-out losses.

A client's embedding is None for a method without one. Where a function takes no weights, the
context's network holds those of the client. n: images, D: features, D_emb: numbers of an embedding.
"""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.clients.client_data import ClientData
from pipeline.clients.context import ModelContext
from pipeline.clients.text_scores import control_images, text_scores, training_images
from pipeline.federation.messages import (
    OTHER,
    ControlPlan,
    ControlScores,
    GeneratedSamples,
    HeldoutLosses,
)
from pipeline.federation.other_metrics import score
from spire_core.diffusion.generation import client_denoiser, draw_together
from spire_core.diffusion.process import Denoiser
from spire_core.evaluation.extractors import (
    Extractor,
    cached_features,
    is_classifier_of,
    make_extractor,
)
from spire_core.evaluation.image_metrics import (
    class_histogram,
    nearest_neighbour_distance,
    total_variation,
)
from spire_core.evaluation.kid import KidScore, kid
from spire_core.evaluation.likelihood import fld
from spire_core.evaluation.memorisation import Neighbours, neighbours
from spire_core.evaluation.novelty import beside_training, is_novel, novel_kid
from spire_core.evaluation.precision_recall import per_client, some
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel
from spire_core.partition.split import Partition
from spire_core.rng import torch_generator
from spire_core.training.fit import to_float
from spire_core.training.heldout import heldout_bits, heldout_losses
from spire_core.training.several import drawn

SAMPLE = "sample"  # the purpose of drawings that are scored
NEAREST_DRAWS = "nearest_draws"
Scale = float | None  # of a client's guidance; None is that of the run


class ClientEvaluator:
    """Generates images as a client and measures them, and measures its held-out losses."""

    def __init__(self, context: ModelContext, extractor: str, cache: Path) -> None:
        """Take an extractor's name and a folder for features of real images."""
        self.context, self.extractor_name, self.cache = context, extractor, cache

    @functools.cached_property
    def extractor(self) -> Extractor:
        """The feature extractor, loaded on first use."""
        return make_extractor(self.extractor_name, self.context.config.eval.extractor_weights)

    def real_features(self, client: ClientData) -> Tensor:
        """Return features (n, D) of a client's held-out images."""
        return self._cached(client.test_images())

    def reference_features(self, client: ClientData) -> Tensor:
        """Return features (n, D) of the real images that a client's samples are scored against."""
        return self._cached(client.reference_images(self.context.config.seed))

    def _cached(self, images: Tensor) -> Tensor:
        """Return features (n, D) of real uint8 images (n, C, H, W), cached."""
        return cached_features(self.extractor, to_float(images), self.cache)

    def reference(self, backbone: Tensor) -> FlatModel | None:
        """Return the reference network of guidance for methods without an embedding.

        A method without pre-training, of its own or of others, has none: its initial network
        predicts zero, and guidance away from zero would only scale the prediction.
        """
        config = self.context.config
        has_embedding = config.method.record.has_embedding
        if not config.is_guided or has_embedding or not config.has_backbone:
            return None
        reference = self.context.another_model()
        reference.load(backbone)
        return reference

    def generate(
        self,
        client: ClientData,
        emb: Tensor | None,
        reference: FlatModel | None = None,
        scale: Scale = None,
    ) -> Tensor:
        """Return the images (n, C, H, W) of `generate_all` of a single client."""
        embs = None if emb is None else [emb]
        return self.generate_all([client], embs, reference, [scale])[0]

    def generate_all(
        self,
        clients: Sequence[ClientData],
        embs: Sequence[Tensor] | None,
        reference: FlatModel | None = None,
        scales: Sequence[Scale] | None = None,
        purpose: str = SAMPLE,
    ) -> list[Tensor]:
        """Return images (n, C, H, W) of each of these clients, drawn for its held-out captions.

        Clients differ by their embeddings (D_emb,) alone, and share batches. `reference`: the
        network to guide away from, of a method without embeddings. `scales`: each client's
        guidance. `purpose`: that of the noise, which differs by it.
        """
        context, config = self.context, self.context.config.eval
        prompts = [client.prompts(config.num_images) for client in clients]
        guided = context.diffusion.guided_timesteps(config.guidance_interval)
        own = scales or [None] * len(clients)
        factors = [config.guidance if scale is None else scale for scale in own]
        own_embs = [] if embs is None else self._drawn_embs(clients, embs, purpose)

        def denoise_as(who: Tensor, at: slice) -> Denoiser:
            own_rows = [own_embs[i][at] for i in dict.fromkeys(who.tolist())] if own_embs else []
            emb = torch.cat(own_rows) if own_rows else None
            asked = [prompts[i] for i in dict.fromkeys(who.tolist())]
            text = [tokens[at] for tokens in asked if tokens is not None]
            tokens = torch.cat(text).to(context.device) if text else None
            rows = [factors[i] for i in who.tolist()]
            guidance = rows[0] if len(set(rows)) == 1 else torch.tensor(rows, device=who.device)
            impersonal, of_text = reference and reference.net, context.config.text_guidance
            return client_denoiser(
                context.model.net, emb, guidance, impersonal, tokens, of_text, guided
            )

        return draw_together(
            denoise_as,
            context.diffusion,
            context.image_shape,
            config.num_images,
            [torch_generator(context.config.seed, purpose, one.client_id) for one in clients],
            config.batch_size,
        )

    def _drawn_embs(
        self, clients: Sequence[ClientData], embs: Sequence[Tensor], purpose: str
    ) -> list[Tensor]:
        """Return the embedding (n, D_emb) of each image that these clients draw."""
        device, config, found = self.context.device, self.context.config, list[Tensor]()
        for client, emb in zip(clients, embs, strict=True):
            chance = torch_generator(config.seed, f"{purpose} embeddings", client.client_id)
            found.append(drawn(emb.to(device), config.eval.num_images, chance))
        return found

    def samples(self, client: ClientData, images: Tensor) -> GeneratedSamples:
        """Return features, class histogram and first few of a client's images (n, C, H, W).

        Images that were drawn for captions have no histogram: the captions decide their classes.
        """
        config, predicted = self.context.config, self.extractor.class_predictions(images)
        histogram = None
        # The classifier of another data set has features, but not these classes.
        has_classes = is_classifier_of(self.extractor_name, config.data.name)
        has_classes &= client.tokens is None
        if predicted is not None and has_classes and client.mixture is not None:
            histogram = class_histogram(predicted, len(client.mixture))
        few = images[: config.eval.grid_images].numpy()
        return GeneratedSamples(client.client_id, self.extractor.features(images), histogram, few)

    def heldout(self, client: ClientData, emb: Tensor | None) -> Tensor:
        """Return the loss (n,) on each of a client's held-out images."""
        context, config = self.context, self.context.config
        images = client.for_testing(config.seed, config.eval.num_loss_images)
        return heldout_losses(context.model, emb, images, context.diffusion).cpu()

    def heldout_mean(self, client: ClientData, emb: Tensor | None) -> float:
        """Return the mean loss on a client's held-out images."""
        return float(self.heldout(client, emb).mean())

    def scores(
        self, client: ClientData, samples: GeneratedSamples, heldout: Tensor, pooled: Tensor
    ) -> dict[str, float]:
        """Return KID against the client's reference and the population, held-out loss, and TV.

        `heldout` (n,) are the losses of `heldout`, `pooled` (n, D) the population's features.
        """
        scores = dict[str, float]()
        if self.extractor.num_features > 0:
            own = self.kid_against(self.reference_features(client), samples)
            scores = {"own_kid": own.mean, "own_kid_std": own.std}
            scores["population_kid"] = self.kid_against(pooled, samples).mean
        scores["heldout_loss"] = float(heldout.mean())
        if (tv := self.tv(client, samples)) is not None:
            scores["tv"] = tv
        return scores

    def kid_against(self, real: Tensor, samples: GeneratedSamples) -> KidScore:
        """Return the KID of samples against real features (m, D)."""
        return kid(real, samples.features, *self.kid_sizes)

    @property
    def kid_sizes(self) -> tuple[int, int, int]:
        """The arguments of `kid` after the features."""
        config = self.context.config
        return config.eval.kid_subset_size, config.eval.kid_num_subsets, config.seed

    def tv(self, client: ClientData, samples: GeneratedSamples) -> float | None:
        """Return the TV between the classes of samples and a client's, None without classes."""
        if samples.histogram is None or client.mixture is None:
            return None
        return total_variation(samples.histogram, client.mixture)

    def text_scores(self, client: ClientData, images: Tensor) -> dict[str, float]:
        """Return the `text_scores` of images (n, C, H, W) drawn for prompts; empty without text."""
        has_classes = is_classifier_of(self.extractor_name, self.context.config.data.name)
        return text_scores(client, images, self.extractor if has_classes else None)

    def observe(
        self, client: ClientData, images: Tensor, emb: Tensor | None, pooled: Tensor
    ) -> tuple[GeneratedSamples, Tensor, dict[str, float]]:
        """Return samples of images that were drawn as a client, its held-out losses, all scores.

        The images (n, C, H, W) were drawn with this embedding, `pooled` (n, D) are the population's
        features, and losses (n,) those of each held-out image.
        """
        samples, heldout = self.samples(client, images), self.heldout(client, emb)
        scores = self.scores(client, samples, heldout, pooled) | self.text_scores(client, images)
        for name in self.context.config.eval.metrics:  # of other packages
            real = to_float(client.test_images())
            scores[f"{OTHER}{name}"] = score(name, images.clone(), real)
        return samples, heldout, scores

    def distances(self, client: ClientData, images: Tensor) -> tuple[float, float]:
        """Return the distances of images to equally many training and held-out images."""
        train, test = client.train_images(), client.test_images()
        count = min(len(train), len(test))
        return (
            nearest_neighbour_distance(images, to_float(train[:count])),
            nearest_neighbour_distance(images, to_float(test[:count])),
        )

    def near(self, client: ClientData, images: Tensor) -> Neighbours:
        """Return how images (n, C, H, W) lie among all training and held-out images."""
        train, test = to_float(client.train_images()), to_float(client.test_images())
        return neighbours(images, train, test)

    def novel_scores(
        self, client: ClientData, images: Tensor, samples: GeneratedSamples
    ) -> dict[str, float]:
        """Return the scores that copies of the training images cannot win, `fld` and `novel_kid`.

        `samples` are those of the images (n, C, H, W). Novel KID needs a reference with enough
        images of each class that the client shows.
        """
        config, reference = self.context.config, self.reference_features(client)
        train = to_float(client.train_images())
        shown = cached_features(self.extractor, train, self.cache)
        scores = {"fld": fld(samples.features, shown, reference)}
        labels = client.reference_labels(config.seed)
        if labels is None or client.labels is None:
            return scores
        of_train = client.labels[client.split.train]
        beside = beside_training(of_train, labels, config.seed, client.client_id)
        if beside is None:
            return scores
        unseen = to_float(client.reference_images(config.seed)[torch.from_numpy(beside)])
        novel = is_novel(images, train, unseen)
        others = reference[torch.from_numpy(~beside)]
        found = novel_kid(samples.features, novel, others, self.kid_sizes)
        return scores if found is None else scores | {"novel_kid": found}

    def bits(self, client: ClientData, emb: Tensor | None) -> dict[str, float]:
        """Return the `elbo` of a client's held-out images: negative, in bits a dimension."""
        context, config = self.context, self.context.config
        images = client.for_testing(config.seed, config.eval.num_loss_images)
        found = heldout_bits(context.model, emb, images, context.diffusion)
        return {"elbo": float(found.mean())}

    # --- controls: images that no fit to a new client has drawn, taken as if one had ---

    def text_controls(
        self, client: ClientData, partition: Partition
    ) -> dict[str, dict[str, float]]:
        """Return the text scores of what each control draws for a new client's prompts."""
        if client.gallery is None:
            return {}
        trained = training_images(partition, client.gallery)
        drawn = control_images(client, self.context.config.eval.num_images, trained)
        return {name: self.text_scores(client, images) for name, images in drawn.items()}

    def image_controls(
        self, client: ClientData, plan: ControlPlan, drawn: Tensor | None
    ) -> dict[str, ControlScores]:
        """Return the scores of a new client's controls by name.

        `pipeline.evaluation.controls` plans them. `drawn`: images (n, C, H, W) of another client's
        model, if the plan has one draw.
        """
        of_all = client.images
        images = {k: to_float(torch.from_numpy(of_all[at])) for k, at in plan.positions.items()}
        if drawn is not None:
            images[NEAREST_DRAWS] = drawn
        return {name: self._control_scores(client, own) for name, own in images.items()}

    def _control_scores(self, client: ClientData, images: Tensor) -> ControlScores:
        samples, config = self.samples(client, images), self.context.config
        own = self.kid_against(self.reference_features(client), samples).mean
        fitted = client.as_fitted(config)
        scores = self.novel_scores(fitted, images, samples)
        limit = per_client(config.federation.num_new_clients)
        pooled = some(samples.features, limit, config.seed, client.client_id)
        near = self.near(fitted, images)
        return ControlScores(own, self.tv(client, samples), near, scores, pooled)

    # --- pre-training clients ---

    def images_as(
        self, clients: Sequence[ClientData], states: Sequence[PrivateState], weights: np.ndarray
    ) -> list[Tensor]:
        """Return images (n, C, H, W) of each of these clients on the backbone (P,).

        Clients that differ by their embeddings alone are computed as one batch.
        """
        backbone = self.context.on_device(weights)
        if all(set(state.parts) == {CLIENT_EMB} for state in states):
            self.context.model.load(backbone)
            return self.generate_all(clients, [state.parts[CLIENT_EMB] for state in states])
        reference, images = self.reference(backbone), []
        for client, state in zip(clients, states, strict=True):
            emb = load_client(self.context.model, backbone, state)
            images.append(self.generate(client, emb, reference))
        return images

    def losses(
        self, client: ClientData, state: PrivateState, other: Tensor | None, weights: np.ndarray
    ) -> HeldoutLosses:
        """Return a client's held-out losses with its own embedding, with zero and with `other`."""
        emb = load_client(self.context.model, self.context.on_device(weights), state)
        return HeldoutLosses(
            client.client_id,
            self.heldout_mean(client, emb),
            None if emb is None else self.heldout_mean(client, self.zero_emb()),
            None if other is None else self.heldout_mean(client, other.to(self.context.device)),
        )

    def zero_emb(self) -> Tensor:
        """Return the embedding (D_emb,) of nobody."""
        return torch.zeros(self.context.config.model.d_emb, device=self.context.device)

    def losses_as(
        self, client: ClientData, states: Iterable[PrivateState], weights: np.ndarray
    ) -> list[float]:
        """Return a client's held-out loss with each of these private states, at one noise."""
        model, backbone = self.context.model, self.context.on_device(weights)
        return [self.heldout_mean(client, load_client(model, backbone, state)) for state in states]
