"""The evaluation of one client: generated images, their scores, and held-out losses.

A client's embedding is None for a method without one. Where a function takes no weights, the
context's network holds those of the client. n: images, D: features, D_emb: numbers of an embedding.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.clients.client_data import ClientData
from pipeline.clients.context import ModelContext
from pipeline.clients.drawing import SAMPLE, Scale, draw_clients
from pipeline.clients.other_scores import other_scores
from pipeline.clients.text_scores import control_images, text_scores, training_images
from pipeline.federation.messages import GeneratedSamples, HeldoutLosses
from spire_core.evaluation.extractors import Extractor, is_classifier_of, make_extractor
from spire_core.evaluation.feature_cache import cached_features
from spire_core.evaluation.image_metrics import (
    class_histogram,
    nearest_neighbour_distance,
    total_variation,
)
from spire_core.evaluation.kid import KidScore, kid
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel
from spire_core.partition.split import Partition
from spire_core.training.fit import to_float
from spire_core.training.heldout import heldout_losses


@dataclass(frozen=True, eq=False)
class Observation:
    """A client's samples, all its images (n, C, H, W), its held-out losses (n,) and its scores."""

    samples: GeneratedSamples
    images: Tensor
    heldout: Tensor
    scores: dict[str, float]


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
        purpose: str = SAMPLE,
    ) -> Tensor:
        """Return images (n, C, H, W) generated as a client, with text for its held-out captions.

        `scale`: its guidance, if not the run's. `purpose`: that of their noise.
        """
        impersonal = reference and reference.net
        return draw_clients(self.context, [client], emb, impersonal, [scale], purpose)[0]

    def generate_together(
        self,
        clients: Sequence[ClientData],
        embs: Sequence[Tensor],
        scales: Sequence[Scale] | None = None,
        purpose: str = SAMPLE,
    ) -> list[Tensor]:
        """Return for each client the images of `generate`, generated as one batch."""
        of_clients = torch.stack(list(embs)).to(self.context.device)
        return draw_clients(self.context, clients, of_clients, None, scales, purpose)

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
        sizes, seed = self.context.config.eval, self.context.config.seed
        return kid(real, samples.features, sizes.kid_subset_size, sizes.kid_num_subsets, seed)

    def tv(self, client: ClientData, samples: GeneratedSamples) -> float | None:
        """Return the TV between the classes of samples and a client's, None without classes."""
        if samples.histogram is None or client.mixture is None:
            return None
        return total_variation(samples.histogram, client.mixture)

    def text_scores(self, client: ClientData, images: Tensor) -> dict[str, float]:
        """Return the `text_scores` of images (n, C, H, W) drawn for prompts; empty without text."""
        has_classes = is_classifier_of(self.extractor_name, self.context.config.data.name)
        return text_scores(client, images, self.extractor if has_classes else None)

    def controls(self, client: ClientData, partition: Partition) -> dict[str, dict[str, float]]:
        """Return the text scores of what each control draws for a new client's prompts."""
        if client.gallery is None:
            return {}
        trained = training_images(partition, client.gallery)
        drawn = control_images(client, self.context.config.eval.num_images, trained)
        return {name: self.text_scores(client, images) for name, images in drawn.items()}

    def observe(
        self, client: ClientData, images: Tensor, emb: Tensor | None, pooled: Tensor
    ) -> Observation:
        """Measure images (n, C, H, W) that were generated as a client with this embedding.

        `pooled` (n, D) are the population's features.
        """
        samples, heldout = self.samples(client, images), self.heldout(client, emb)
        scores = self.scores(client, samples, heldout, pooled)
        scores |= self.text_scores(client, images)
        scores |= other_scores(self.context.config.eval.metrics, client, images)
        return Observation(samples, images, heldout, scores)

    def distances(self, client: ClientData, images: Tensor) -> tuple[float, float]:
        """Return the distances of images to equally many training and held-out images."""
        train, test = client.train_images(), client.test_images()
        count = min(len(train), len(test))
        return (
            nearest_neighbour_distance(images, to_float(train[:count])),
            nearest_neighbour_distance(images, to_float(test[:count])),
        )

    def draw(
        self, clients: Sequence[ClientData], states: Sequence[PrivateState], weights: np.ndarray
    ) -> list[GeneratedSamples]:
        """Return samples of clients with these private states on the backbone weights (P,)."""
        images = self.images_as(clients, states, weights)
        return [self.samples(client, drawn) for client, drawn in zip(clients, images, strict=True)]

    def images_as(
        self, clients: Sequence[ClientData], states: Sequence[PrivateState], weights: np.ndarray
    ) -> list[Tensor]:
        """Return images (n, C, H, W) of each of these clients, as `draw` measures them.

        Clients that differ by their embeddings alone are computed as one batch.
        """
        backbone = self.context.on_device(weights)
        if all(set(state.parts) == {CLIENT_EMB} for state in states):
            self.context.model.load(backbone)
            embs = [state.parts[CLIENT_EMB] for state in states]
            return self.generate_together(clients, embs)
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
            None if emb is None else self.heldout_mean(client, torch.zeros_like(emb)),
            None if other is None else self.heldout_mean(client, other.to(self.context.device)),
        )

    def losses_as(
        self, client: ClientData, states: Iterable[PrivateState], weights: np.ndarray
    ) -> list[float]:
        """Return a client's held-out loss with each of these private states, at one noise."""
        model, backbone = self.context.model, self.context.on_device(weights)
        return [self.heldout_mean(client, load_client(model, backbone, state)) for state in states]
