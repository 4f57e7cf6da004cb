"""The clients' side: one worker simulates many clients in turn and keeps none in memory.

A worker is the same class in this process and inside a Ray actor. A client pool calls the tasks
below by their names. Each task looks up the clients' images and private states, has the trainer,
the evaluator or the adapter work on them, and stores new private states. Images and private states
stay here. A worker returns sums of its clients' updates of the shared weights, and measurements.

P: length of the weight vector, n: images, D: features, D_emb: numbers of an embedding.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from pipeline.clients.adaptation import ClientAdapter
from pipeline.clients.drawing import Scale
from pipeline.clients.evaluation import ClientEvaluator
from pipeline.clients.image_controls import score_controls
from pipeline.clients.private_adaptation import choose_clip_norm, protection_of
from pipeline.clients.round_worker import RoundWorker
from pipeline.federation.messages import (
    AdaptReport,
    ControlPlan,
    ControlScores,
    EpochEvaluation,
    FittedClient,
    GeneratedSamples,
    HeldoutLosses,
    WorkerSetup,
)
from pipeline.runs.model_files import save_client
from pipeline.runs.noise_key import read_noise
from spire_core.adaptation.private_descent import Protection
from spire_core.config.adapt import AdaptConfig
from spire_core.network.flat_model import tensors_hash
from spire_core.privacy.guarantee import guarantee_of


class ClientWorker(RoundWorker):
    """Simulates clients on one device with one thread; see the module's docstring."""

    def __init__(self, setup: WorkerSetup, images: np.ndarray, device: str = "cpu") -> None:
        """Take the setup and all clients' uint8 images (N, C, H, W), possibly in shared memory."""
        super().__init__(setup, images, device)
        self.evaluator = ClientEvaluator(self.context, setup.extractor, self.cache)
        self.adapter = ClientAdapter(self.evaluator)

    # --- evaluations of pre-training clients, whether they have trained or not ---

    def real_features(self, client_id: int) -> Tensor:
        """Return features (n, D) of a client's held-out images."""
        return self.evaluator.real_features(self.client_data(client_id))

    def reference_features(self, client_id: int) -> Tensor:
        """Return features (n, D) of the real images that a client's samples are scored against."""
        return self.evaluator.reference_features(self.client_data(client_id))

    def draw(self, client_ids: Sequence[int], weights: np.ndarray) -> list[GeneratedSamples]:
        """Return samples generated as pre-training clients with these backbone weights (P,)."""
        self.forget_sum()  # the last round's sum is collected; its memory is needed now
        states = [self.private_state(client_id) for client_id in client_ids]
        return self.evaluator.draw(self._all_data(client_ids), states, weights)

    def losses(self, client_id: int, weights: np.ndarray, swap_with: int) -> HeldoutLosses:
        """Return a client's held-out losses; `swap_with` is the client of the other embedding.

        A client that is lent its own, because it alone is evaluated, has no loss with another's.
        """
        client, state = self.client_data(client_id), self.private_state(client_id)
        other = None if swap_with == client_id else self.private_state(swap_with).client_emb
        return self.evaluator.losses(client, state, other, weights)

    def losses_as(self, client_id: int, weights: np.ndarray, others: Sequence[int]) -> list[float]:
        """Return a client's held-out loss with each of these clients' own parts, at one noise."""
        states = (self.private_state(other) for other in others)  # one at a time in memory
        return self.evaluator.losses_as(self.client_data(client_id), states, weights)

    def draw_tuned(
        self, client_id: int, weights: np.ndarray, settings: AdaptConfig
    ) -> tuple[GeneratedSamples, HeldoutLosses]:
        """Return samples and held-out loss of a pre-training client that trains on alone.

        Nothing is kept of the tuning.
        """
        client, state = self.client_data(client_id), self.private_state(client_id)
        return self.adapter.tune(client, state, weights, settings)

    # --- new clients ---

    def clip_norm(
        self, client_id: int, weights: np.ndarray, settings: AdaptConfig, mean_emb: Tensor | None
    ) -> float:
        """Return the clip norm of private fits on the backbone (P,), whoever is asked."""
        return choose_clip_norm(self.adapter, weights, settings, mean_emb)

    def _protection(self, settings: AdaptConfig, clip_norm: float | None) -> Protection | None:
        if clip_norm is None:
            return None
        noise = read_noise(self.setup.folder, self.setup.config.privacy)
        return protection_of(self.adapter, settings, clip_norm, noise)

    def adapt(
        self,
        client_id: int,
        weights: np.ndarray,
        settings: AdaptConfig,
        mean_emb: Tensor | None,
        pooled_features: Tensor,
        clip_norm: float | None = None,
    ) -> AdaptReport:
        """Fit a new client on the backbone (P,), scored between epochs; keep its own parts here.

        `pooled_features` (n, D) are features of the pre-training population's held-out images. With
        a `clip_norm` the fit is differentially private.
        """
        self.forget_sum()
        client, start = self.client_data(client_id), (weights, settings, mean_emb)
        protection = self._protection(settings, clip_norm)
        report, state = self.adapter.adapt(client, *start, pooled_features, protection)
        self.store.save(client_id, 0, state)
        return report

    def fit_embeddings(
        self,
        client_ids: Sequence[int],
        weights: np.ndarray,
        settings: AdaptConfig,
        mean_emb: Tensor | None,
        clip_norm: float | None = None,
    ) -> list[FittedClient]:
        """Fit new clients' embeddings on the backbone (P,) in one batch; keep them here.

        Each also keeps its embedding after every epoch to evaluate. With a `clip_norm` the fit is
        differentially private.
        """
        self.forget_sum()
        clients, protection = self._all_data(client_ids), self._protection(settings, clip_norm)
        fitted = self.adapter.fit_embeddings(clients, weights, settings, mean_emb, protection)
        for report, state in fitted:
            self.store.save(report.client_id, 0, state)
        return [report for report, _ in fitted]

    def look(
        self,
        client_ids: Sequence[int],
        weights: np.ndarray,
        pooled_features: Tensor,
        epochs: Sequence[int],
        is_whole: Sequence[bool],
        scales: Sequence[Scale],
    ) -> list[EpochEvaluation]:
        """Return new clients' evaluations on the backbone (P,) after some epochs, in one batch.

        `epochs`, `is_whole` (whether to return samples and distances too) and `scales` of guidance
        correspond to `client_ids`, which may repeat a client. `pooled_features` as in `adapt`.
        """
        states = [self.private_state(client_id) for client_id in client_ids]
        embs = [state.snapshots[epoch] for state, epoch in zip(states, epochs, strict=True)]
        clients = self._all_data(client_ids)
        return self.adapter.look(clients, embs, weights, pooled_features, is_whole, scales)

    def text_controls(self, client_id: int) -> dict[str, dict[str, float]]:
        """Return the scores of what each control draws for a new client's prompts."""
        return self.evaluator.controls(self.client_data(client_id), self.setup.partition)

    def image_controls(
        self, client_id: int, weights: np.ndarray, plan: ControlPlan
    ) -> dict[str, ControlScores]:
        """Return the scores of a new client's controls, on the backbone (P,) where one draws."""
        drawn, old = None, plan.drawn_as
        if old is not None:
            one = (self._all_data([old]), [self.private_state(old)], weights)
            [drawn] = self.evaluator.images_as(*one)
        return score_controls(self.evaluator, self.client_data(client_id), plan, drawn)

    # --- own parts of any client ---

    def export(self, client_id: int, folder: Path) -> str:
        """Write a client's own parts into a finished run's folder; return their SHA-256."""
        state = self.private_state(client_id)
        if state.parts:
            promise = self._promise(client_id)
            save_client(folder, client_id, state.parts, promise, state.guidance)
        return tensors_hash(dict(state.parts))

    def _promise(self, client_id: int) -> dict[str, str]:
        """Return what the file of a client's part says about its privacy."""
        config, split = self.setup.config, self.setup.partition.split(client_id)
        if client_id < config.federation.num_clients:
            return {}
        is_simulated = config.privacy.noise_key is not None
        guarantee = guarantee_of(config.privacy.adapt, len(split.train), is_simulated)
        return {} if guarantee is None else guarantee.as_texts()
