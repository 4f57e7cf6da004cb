"""A client's side of an evaluation: generated samples and held-out losses."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.clients.base import WorkerBase
from pipeline.federation.messages import GeneratedSamples, HeldoutLosses
from spire_core.diffusion.generation import client_denoiser, draw, draw_together
from spire_core.evaluation.extractors import is_classifier_of
from spire_core.evaluation.feature_cache import cached_features
from spire_core.evaluation.image_metrics import (
    class_histogram,
    nearest_neighbour_distance,
    total_variation,
)
from spire_core.evaluation.kid import kid
from spire_core.federated.private_state import load_client
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel
from spire_core.rng import torch_generator
from spire_core.training.context import ClientContext
from spire_core.training.fit import to_float
from spire_core.training.heldout import heldout_losses


class EvaluationTasks(WorkerBase):
    """Tasks of an evaluation of pre-training clients, whether they have trained or not."""

    def real_features(self, client_id: int) -> Tensor:
        """Return features (n, D) of a client's test images."""
        images = to_float(self.test_images(client_id))
        return cached_features(self.extractor, images, self.setup.folder.parent / "cache")

    def _images(
        self,
        client_id: int,
        model: FlatModel,
        emb: Tensor | None,
        reference: FlatModel | None = None,
    ) -> Tensor:
        """Return images (n, C, H, W) drawn as a client, with the weights that the model holds."""
        config = self.config
        return draw(
            client_denoiser(model.net, emb, config.eval.guidance, reference and reference.net),
            self.diffusion,
            self.images.shape[1:],  # type: ignore[arg-type]
            config.eval.num_images,
            torch_generator(config.seed, "sample", client_id),
            config.eval.batch_size,
        )

    def _reference(self, backbone: Tensor) -> FlatModel | None:
        """Return the reference network of guidance for methods without an embedding.

        A method without pre-training has no reference: its initial network predicts zero, and
        guidance away from zero would only scale the prediction.
        """
        method = self.config.method.record
        if self.config.eval.guidance == 1.0 or method.has_embedding or not method.is_federated:
            return None
        reference = self._new_model()
        reference.load(backbone)
        return reference

    def _images_together(self, client_ids: Sequence[int], embs: Sequence[Tensor]) -> list[Tensor]:
        """Return for each client the images of `_images`, drawn as one batch."""
        config, rows = self.config, torch.stack(list(embs)).to(self.device)
        return draw_together(
            lambda who: client_denoiser(self.model.net, rows[who], config.eval.guidance),
            self.diffusion,
            self.images.shape[1:],  # type: ignore[arg-type]
            config.eval.num_images,
            [torch_generator(config.seed, "sample", client_id) for client_id in client_ids],
            config.eval.batch_size,
        )

    def _drawn(self, client_id: int, images: Tensor) -> GeneratedSamples:
        """Return features, class histogram and first few of a client's images (n, C, H, W)."""
        config = self.config
        predicted, histogram = self.extractor.class_predictions(images), None
        # The classifier of another data set has features, but not these classes.
        if predicted is not None and is_classifier_of(self.setup.extractor, config.data.name):
            histogram = class_histogram(predicted, len(self.setup.mixtures[client_id]))
        few = images[: config.eval.grid_images].numpy()
        return GeneratedSamples(client_id, self.extractor.features(images), histogram, few)

    def draw(self, client_ids: Sequence[int], weights: np.ndarray) -> list[GeneratedSamples]:
        """Return images drawn as pre-training clients with these backbone weights (P,).

        Clients that differ by their embeddings alone are drawn as one batch.
        """
        backbone = torch.tensor(weights, device=self.device)
        states = [self.private_state(client_id) for client_id in client_ids]
        if all(set(state.parts) == {CLIENT_EMB} for state in states):
            self.model.load(backbone)
            images = self._images_together(
                client_ids, [state.parts[CLIENT_EMB] for state in states]
            )
        else:
            reference = self._reference(backbone)
            images = []
            for client_id, state in zip(client_ids, states, strict=True):
                emb = load_client(self.model, backbone, state)
                images.append(self._images(client_id, self.model, emb, reference))
        return [self._drawn(c, drawn) for c, drawn in zip(client_ids, images, strict=True)]

    def losses(self, client_id: int, weights: np.ndarray, swap_with: int) -> HeldoutLosses:
        """Return a client's held-out losses; `swap_with` is the client of the other embedding."""
        state = self.private_state(client_id)
        emb = load_client(self.model, torch.tensor(weights, device=self.device), state)
        other = self.private_state(swap_with).client_emb
        return HeldoutLosses(
            client_id,
            self._heldout(client_id, emb),
            None if emb is None else self._heldout(client_id, torch.zeros_like(emb)),
            None if other is None else self._heldout(client_id, other.to(self.device)),
        )

    def losses_as(self, client_id: int, weights: np.ndarray, others: Sequence[int]) -> list[float]:
        """Return a client's held-out loss with each of these clients' own parts, at one noise."""
        backbone = torch.tensor(weights, device=self.device)
        return [
            self._heldout(client_id, load_client(self.model, backbone, self.private_state(other)))
            for other in others
        ]

    def _heldout(self, client_id: int, emb: Tensor | None) -> float:
        return float(self._heldout_each(client_id, emb).mean())

    def _heldout_each(self, client_id: int, emb: Tensor | None) -> Tensor:
        """Return the loss (n,) on each of a client's held-out images."""
        images = self.test_images(client_id, self.config.eval.num_loss_images)
        client = ClientContext(client_id, self.config.seed, images)
        return heldout_losses(self.model, emb, client, self.diffusion).cpu()

    def _scores(
        self, drawn: GeneratedSamples, heldout: Tensor, pooled_features: Tensor
    ) -> dict[str, float]:
        """Return KID against the client's and the population's data, TV, and held-out loss.

        `heldout` (n,) are the losses of `_heldout_each`.
        """
        config, client_id = self.config, drawn.client_id
        sizes = (config.eval.kid_subset_size, config.eval.kid_num_subsets, config.seed)
        own = kid(self.real_features(client_id), drawn.features, *sizes)
        observed = {
            "own_kid": own.mean,
            "own_kid_std": own.std,
            "population_kid": kid(pooled_features, drawn.features, *sizes).mean,
            "heldout_loss": float(heldout.mean()),
        }
        if drawn.histogram is not None:
            observed["tv"] = total_variation(drawn.histogram, self.setup.mixtures[client_id])
        return observed

    def _distances(self, client_id: int, images: Tensor) -> tuple[float, float]:
        """Return the distances of images to equally many training and held-out images."""
        train, test = self.train_images(client_id), self.test_images(client_id)
        count = min(len(train), len(test))
        return (
            nearest_neighbour_distance(images, to_float(train[:count])),
            nearest_neighbour_distance(images, to_float(test[:count])),
        )
