"""The evaluation of one client: drawn images, their scores, and held-out losses.

A client's embedding is None for a method without one. Where a function takes no weights, the
worker's network holds those of the client. n: images, D: features, D_emb: numbers of an embedding.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.clients.client_data import ClientData
from pipeline.clients.rounds import RoundWorker
from pipeline.federation.messages import OTHER, ControlScores, GeneratedSamples
from pipeline.federation.setup import score
from spire_core.diffusion.generation import client_denoiser, draw, draw_together
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
    paired_distance,
    total_variation,
)
from spire_core.evaluation.kid import KidScore, kid
from spire_core.evaluation.likelihood import fld
from spire_core.evaluation.memorisation import (
    Neighbours,
    beside_training,
    is_novel,
    neighbours,
    novel_kid,
)
from spire_core.evaluation.precision_recall import per_client, some
from spire_core.evaluation.prompted_images import (
    mean_images,
    nearest_images,
    owner_distances,
    paired_pixel_distances,
    pixel_distances,
    retrieval_rank,
)
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel
from spire_core.partition.split import Partition
from spire_core.rng import torch_generator
from spire_core.training.context import ClientContext
from spire_core.training.fit import to_float
from spire_core.training.heldout import heldout_bits, heldout_losses
from spire_core.training.several import drawn

SAMPLE = "sample"  # the purpose of drawings that are scored
NUM_OF_EACH = 8  # images that are drawn with each of several embeddings


class ClientEvaluator:
    """Generates images as a client and measures them, and measures its held-out losses."""

    def __init__(self, worker: RoundWorker, cache: Path) -> None:
        """Take a worker, whose network and settings are used, and a folder for features."""
        self.worker, self.config, self.cache = worker, worker.config, cache
        self.extractor_name = worker.setup.extractor

    @functools.cached_property
    def extractor(self) -> Extractor:
        """The feature extractor, loaded on first use."""
        return make_extractor(self.extractor_name, self.config.eval.extractor_weights)

    def reference_features(self, client: ClientData) -> Tensor:
        """Return features (n, D) of the real images that a client's samples are scored against."""
        return self.features(client.reference_images(self.config.seed))

    def features(self, images: Tensor) -> Tensor:
        """Return features (n, D) of real uint8 images (n, C, H, W), cached."""
        return cached_features(self.extractor, to_float(images), self.cache)

    @functools.cached_property
    def _impersonal(self) -> FlatModel:
        """A second network, for guidance away from what the backbone draws."""
        config, shape = self.config, self.worker.image_shape
        return FlatModel(config.model, config.method, shape[0], self.worker.device)

    def _reference(self, backbone: Tensor) -> FlatModel | None:
        """Return the reference network of guidance for methods without an embedding.

        A method without pre-training, of its own or of others, has none: its initial network
        predicts zero, and guidance away from zero would only scale the prediction.
        """
        config = self.config
        has_embedding = config.method.record.has_embedding
        if not config.is_guided or has_embedding or not config.has_backbone:
            return None
        self._impersonal.load(backbone)
        return self._impersonal

    def draw(
        self,
        clients: Sequence[ClientData],
        states: Sequence[PrivateState],
        backbone: Tensor,
        purpose: str = SAMPLE,
    ) -> list[Tensor]:
        """Return images (n, C, H, W) of each of these clients on the backbone (P,).

        They are drawn for its held-out captions, with its own guidance if it has one. Clients that
        differ by their embeddings alone share batches. `purpose`: that of the noise, which differs
        by it.
        """
        if len(clients) > 1 and any(set(state.parts) != {CLIENT_EMB} for state in states):
            pairs = zip(clients, states, strict=True)
            return [self.draw([one], [own], backbone, purpose)[0] for one, own in pairs]
        worker, config, seed = self.worker, self.config.eval, self.config.seed
        embs, prompts = list[Tensor](), list[Tensor]()  # of each image; none without either
        for client, state in zip(clients, states, strict=True):
            emb, tokens = (
                load_client(worker.model, backbone, state),
                client.prompts(config.num_images),
            )
            chance = torch_generator(seed, f"{purpose} embeddings", client.client_id)
            embs += [] if emb is None else [drawn(emb, config.num_images, chance)]
            prompts += [] if tokens is None else [tokens.to(worker.device)]
        own = [state.guidance for state in states]
        factors = [config.guidance if scale is None else scale for scale in own]
        guided = worker.diffusion.guided_timesteps(config.guidance_interval)
        reference = self._reference(backbone)

        def denoise_as(who: Tensor, at: slice) -> Denoiser:
            present = list(dict.fromkeys(who.tolist()))
            scales = [factors[i] for i in who.tolist()]
            return client_denoiser(
                worker.model.net,
                torch.cat([embs[i][at] for i in present]) if embs else None,
                scales[0] if len(set(scales)) == 1 else torch.tensor(scales, device=who.device),
                reference and reference.net,
                torch.cat([prompts[i][at] for i in present]) if prompts else None,
                self.config.text_guidance,
                guided,
            )

        return draw_together(
            denoise_as,
            worker.diffusion,
            worker.image_shape,
            config.num_images,
            [torch_generator(seed, purpose, client.client_id) for client in clients],
            config.batch_size,
        )

    def samples(self, client: ClientData, images: Tensor) -> GeneratedSamples:
        """Return features, class histogram and first few of a client's images (n, C, H, W).

        Images that were drawn for captions have no histogram: the captions decide their classes.
        """
        config, predicted = self.config, self.extractor.class_predictions(images)
        histogram = None
        # The classifier of another data set has features, but not these classes.
        has_classes = is_classifier_of(self.extractor_name, config.data.name)
        has_classes &= client.tokens is None
        if predicted is not None and has_classes and client.mixture is not None:
            histogram = class_histogram(predicted, len(client.mixture))
        few = images[: config.eval.grid_images].numpy()
        return GeneratedSamples(client.client_id, self.extractor.features(images), histogram, few)

    def drawn_with_each(
        self, client: ClientData, table: Tensor
    ) -> tuple[tuple[float, np.ndarray], ...]:
        """Return the weight of each of a client's embeddings, and images (8, C, H, W) of it."""
        found, worker = list[tuple[float, np.ndarray]](), self.worker
        for row in table:
            own = torch_generator(self.config.seed, "each embedding", client.client_id)
            denoise = client_denoiser(worker.model.net, row[:-1])
            images = draw(denoise, worker.diffusion, worker.image_shape, NUM_OF_EACH, own)
            found.append((float(row[-1]), images.numpy()))
        return tuple(found)

    def heldout(self, client: ClientData, emb: Tensor | None) -> Tensor:
        """Return the loss (n,) on each of a client's held-out images."""
        images, worker = self._for_losses(client), self.worker
        return heldout_losses(worker.model, emb, images, worker.diffusion).cpu()

    def bits(self, client: ClientData, emb: Tensor | None) -> dict[str, float]:
        """Return the `elbo` of a client's held-out images: negative, in bits a dimension."""
        images, worker = self._for_losses(client), self.worker
        return {"elbo": float(heldout_bits(worker.model, emb, images, worker.diffusion).mean())}

    def _for_losses(self, client: ClientData) -> ClientContext:
        config = self.config
        positions = client.split.test[: config.eval.num_loss_images]
        return client.with_images_at(positions, config.seed)

    def heldout_mean(self, client: ClientData, emb: Tensor | None) -> float:
        """Return the mean loss on a client's held-out images."""
        return float(self.heldout(client, emb).mean())

    def scores(
        self,
        client: ClientData,
        images: Tensor,
        samples: GeneratedSamples,
        heldout: Tensor,
        pooled: Tensor,
    ) -> dict[str, float]:
        """Return all scores of images (n, C, H, W) that were drawn as a client.

        They are KID against its reference and against the population, held-out loss, TV, those of
        prompts, and metrics of other packages. `samples` are those of the images, `heldout` (n,)
        the losses of `heldout`, `pooled` (n, D) the population's features.
        """
        scores = dict[str, float]()
        if self.extractor.num_features > 0:
            own = self.kid_against(self.reference_features(client), samples)
            scores = {"own_kid": own.mean, "own_kid_std": own.std}
            scores["population_kid"] = self.kid_against(pooled, samples).mean
        scores["heldout_loss"] = float(heldout.mean())
        if (tv := self.tv(client, samples)) is not None:
            scores["tv"] = tv
        scores |= self.text_scores(client, images)
        for name in self.config.eval.metrics:
            real = to_float(client.test_images())
            scores[f"{OTHER}{name}"] = score(name, images.clone(), real)
        return scores

    def kid_against(self, real: Tensor, samples: GeneratedSamples) -> KidScore:
        """Return the KID of samples against real features (m, D)."""
        return kid(real, samples.features, *self.kid_sizes)

    @property
    def kid_sizes(self) -> tuple[int, int, int]:
        """The arguments of `kid` after the features."""
        config = self.config
        return config.eval.kid_subset_size, config.eval.kid_num_subsets, config.seed

    def tv(self, client: ClientData, samples: GeneratedSamples) -> float | None:
        """Return the TV between the classes of samples and a client's, None without classes."""
        if samples.histogram is None or client.mixture is None:
            return None
        return total_variation(samples.histogram, client.mixture)

    def text_scores(self, client: ClientData, images: Tensor) -> dict[str, float]:
        """Return the `text_scores` of images (n, C, H, W) drawn for prompts; empty without text."""
        has_classes = is_classifier_of(self.extractor_name, self.config.data.name)
        return text_scores(client, images, self.extractor if has_classes else None)

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
        reference, seed = self.reference_features(client), self.config.seed
        shown, labels = self.features(client.train_images()), client.reference_labels(seed)
        scores = {"fld": fld(samples.features, shown, reference)}
        if labels is None or client.labels is None:
            return scores
        of_train = client.labels[client.split.train]
        beside = beside_training(of_train, labels, seed, client.client_id)
        if beside is None:
            return scores
        unseen = to_float(client.reference_images(seed)[torch.from_numpy(beside)])
        novel = is_novel(images, to_float(client.train_images()), unseen)
        others = reference[torch.from_numpy(~beside)]
        found = novel_kid(samples.features, novel, others, self.kid_sizes)
        return scores if found is None else scores | {"novel_kid": found}

    def control_scores(self, client: ClientData, images: Tensor) -> ControlScores:
        """Return the scores of images (n, C, H, W), as if the client had drawn them."""
        samples, config = self.samples(client, images), self.config
        own = self.kid_against(self.reference_features(client), samples).mean
        fitted = client.as_fitted(config)
        near, scores = self.near(fitted, images), self.novel_scores(fitted, images, samples)
        is_new = config.is_new(client.client_id)
        limit = per_client(config.federation.num_new_clients) if is_new else 0
        pooled = some(samples.features, limit, config.seed, client.client_id)
        return ControlScores(own, self.tv(client, samples), near, scores, pooled)


# --- images that were drawn for prompts, and controls that draw without a model ---

# A new client's prompts are the captions of its held-out images, so that each has a true image. The
# other clients' images, which the clients' side of a simulation has, tell whose style was drawn.


def text_scores(
    client: ClientData, images: Tensor, classifier: Extractor | None
) -> dict[str, float]:
    """Return how well images (n, C, H, W) are what their prompts ask for; empty without text.

    `style_distance`: the mean distance to the true image of each prompt. `prompt_accuracy`: the
    share whose class the data set's own classifier recognises, and `true_accuracy` that of the true
    images. `copied`: the share that is nearer to an image that the client shows than to the true
    one, not as near; `shown_distance`: the mean distance to the nearest of these. `retrieved`: 1 if
    no other client's images of the same captions are as near as those that the client holds out,
    else 0; `retrieval_rank`: how many clients' are, its own included.
    """
    found = client.truth(len(images))
    if found is None:
        return {}
    truth, labels = to_float(found[0]), found[1]
    scores = {"style_distance": paired_distance(images, truth)}
    if classifier is not None:
        for name, shown in (("prompt_accuracy", images), ("true_accuracy", truth)):
            predicted = classifier.class_predictions(shown)
            assert predicted is not None  # a classifier has classes
            scores[name] = float((predicted == labels).double().mean())
    nearest = pixel_distances(images, to_float(client.train_images())).amin(1)
    own = paired_pixel_distances(images, truth)
    scores["copied"] = float((nearest < own).double().mean())
    scores["shown_distance"] = float(nearest.mean())
    if client.gallery is not None:
        kinds = client.gallery.kinds[client.asked(len(images))]
        unseen = client.gallery.without(client.split.train)
        rank = retrieval_rank(client.client_id, images, kinds, unseen)
        scores |= {"retrieved": float(rank == 1), "retrieval_rank": float(rank)}
    return scores


def control_images(client: ClientData, num_images: int, partition: Partition) -> dict[str, Tensor]:
    """Return what the controls draw for a client's prompts, (num_images, C, H, W) each.

    `copies`: the images that the client shows, in turn, whatever is asked for. `mean_client`: the
    mean of what all pre-training clients train on for the prompt. `nearest_client`: the image of
    the one that is nearest to what the client shows, or of the next that has the prompt. The last
    two are left out if one prompt is in none; there is nothing without a gallery.
    """
    if client.gallery is None:
        return {}
    trained = client.gallery.only(np.concatenate([one.train for one in partition.train_clients]))
    kinds = trained.kinds[client.asked(num_images)]
    shown = to_float(client.train_images())
    distances = owner_distances(shown, trained.kinds[client.split.train], trained)
    drawn = {
        "copies": shown[torch.arange(len(kinds)) % len(shown)],
        "mean_client": mean_images(kinds, trained),
        "nearest_client": nearest_images(kinds, trained, distances),
    }
    return {name: images for name, images in drawn.items() if images is not None}
