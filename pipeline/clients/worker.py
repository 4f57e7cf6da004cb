"""The clients' side: one worker simulates many clients in turn and keeps none in memory.

A worker is the same class in this process and inside a Ray actor. A client pool calls the tasks
below by their names. Each task looks up the clients' images and private states, has the trainer,
the evaluator or the adapter work on them, and stores new private states. Images and private states
stay here. A worker returns sums of its clients' updates of the shared weights, and measurements.

P: length of the weight vector, n: images, D: features, D_emb: numbers of an embedding.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.clients.adaptation import ClientAdapter
from pipeline.clients.client_data import ClientData
from pipeline.clients.context import ModelContext
from pipeline.clients.evaluation import ClientEvaluator, control_images, gallery_of
from pipeline.clients.profiler import WorkerProfiler
from pipeline.clients.rounds import ClientTrainer, StepCosts, measure_step
from pipeline.clients.store import ClientStore
from pipeline.federation.messages import (
    ControlPlan,
    ControlScores,
    FittedClient,
    GeneratedSamples,
    HeldoutLosses,
    Look,
    LookAt,
    WorkerSetup,
)
from pipeline.federation.rounds import RoundSettings
from pipeline.runs.layout import CLIENTS
from pipeline.runs.model_files import save_client
from pipeline.runs.noise_key import read_noise
from spire_core.config.adapt import AdaptConfig
from spire_core.evaluation.prompted_images import Gallery
from spire_core.federated.messages import Broadcast, ClientReport, ClientUpdate, RoundPlan
from spire_core.federated.participation import secret_cohort
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.federated.private_updates import NOISE, ClippedFormat
from spire_core.federated.sums import HiddenSum, UpdateSum, vector_form
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import tensors_hash
from spire_core.pretrained.folder import check_same
from spire_core.privacy.guarantee import guarantee_of
from spire_core.privacy.noise import SecretNoise
from spire_core.training.fit import to_float

NEAREST_DRAWS = "nearest_draws"  # a control


class ClientWorker:
    """Simulates clients on one device with one thread; see the module's docstring."""

    def __init__(self, setup: WorkerSetup, images: np.ndarray, device: str = "cpu") -> None:
        """Take the setup and all clients' uint8 images (N, C, H, W), possibly in shared memory.

        ConfigError if this machine has another pre-trained model than the run.
        """
        if (backbone := setup.config.model.backbone) is not None and setup.backbone_hash:
            check_same(backbone, setup.backbone_hash)
        self.setup, self.images = setup, images
        self.store = ClientStore(setup.folder / CLIENTS)
        self.context = ModelContext.start(setup.config, images.shape[1:], device)
        self.trainer = ClientTrainer(self.context)
        cache = setup.folder.parent / "cache"  # of all runs
        self.encode = self.context.encoder(cache)
        self.evaluator = ClientEvaluator(self.context, setup.extractor, cache)
        self.adapter = ClientAdapter(self.evaluator)
        shared_size = self.context.model.layout.num_without_local
        self.settings = RoundSettings(setup.config, setup.partition.train_sizes, shared_size)
        self._sum: tuple[int | str, Any] | None = None  # of a round, or a mean, by its name
        self.profiler = WorkerProfiler(self.context.device)

    def client_data(self, client_id: int) -> ClientData:
        """Return a client's images; with its class mixture if the client has scores."""
        setup = self.setup
        return ClientData(
            setup.partition.split(client_id),
            self.images,
            setup.mixtures.get(client_id),
            setup.tokens,
            setup.labels,
            self.gallery,
            self.encode,
            setup.reference,
        )

    @functools.cached_property
    def gallery(self) -> Gallery | None:
        """All clients' images with their captions, where prompts are scored."""
        return gallery_of(self.setup.partition, self.images, self.setup.tokens)

    def private_state(self, client_id: int, num_rounds_done: int | None = None) -> PrivateState:
        """Return a client's newest private state after at most so many rounds.

        A pre-training client that has never trained has a new one.
        """
        stored = self.store.load(client_id, num_rounds_done)
        return self.context.new_state(client_id) if stored is None else stored

    def _all_data(self, client_ids: Sequence[int]) -> list[ClientData]:
        return [self.client_data(client_id) for client_id in client_ids]

    def _loaded(self, client_id: int, weights: np.ndarray) -> Tensor | None:
        """Load a client's model on the backbone (P,); return its embedding (D_emb,)."""
        state, backbone = self.private_state(client_id), self.context.on_device(weights)
        return load_client(self.context.model, backbone, state)

    def _noise(self) -> SecretNoise:
        return read_noise(self.setup.folder, self.setup.config.privacy)

    # --- rounds of pre-training ---

    def fit(
        self, client_ids: Sequence[int], broadcast: Broadcast, plan: RoundPlan
    ) -> list[ClientReport]:
        """Train clients together, add their updates to this round's sum, return their reports.

        A client that is in the sum already stays there once. Where the sum alone may be seen, a
        report has no loss.
        """
        form, reports = None, list[ClientReport]()
        if plan.hides_updates:
            form = self.settings.update_format(plan, broadcast)
            total = self._running(plan.round_idx, HiddenSum, form.size)
        else:
            shape = self.settings.update_shape(plan, broadcast.weights.size)
            total = self._running(plan.round_idx, UpdateSum, broadcast, shape)
        for update in self.train(client_ids, broadcast, plan):
            client_id, loss, num_bytes = update.client_id, update.loss, update.num_bytes
            weight = 1 if plan.private else update.num_examples
            if form is not None:
                loss, num_bytes = None, 8 * form.size
            reports.append(ClientReport(client_id, weight, update.num_steps, loss, num_bytes))
            if client_id in total.client_ids:
                continue
            try:
                if form is None:
                    total.add(update)
                else:
                    total.add(client_id, weight, form.encode(update))
            except BaseException:  # in the middle of an addition: a part of it may be there
                self.forget_sum()
                raise
        return reports

    def train(
        self, client_ids: Sequence[int], broadcast: Broadcast, plan: RoundPlan
    ) -> list[ClientUpdate]:
        """Train clients together and return their updates; the new private states stay here."""
        clients, updates = self._all_data(client_ids), []
        states = [self.private_state(client_id, plan.round_idx) for client_id in client_ids]
        for update, state in self.trainer.train(clients, states, broadcast, plan):
            if not state.is_empty:
                done = plan.round_idx + 1
                self.store.save(update.client_id, done, state, plan.kept_rounds)
            updates.append(update)
        return updates

    def measure_step(self) -> StepCosts:
        """Return the costs of a round's step of the clients that are computed together."""
        config = self.setup.config
        groups = config.resolved_client.groups(range(config.federation.cohort_size))
        return measure_step(self.trainer, self._all_data(groups[0]))

    def private_cohort(self, _: int, round_idx: int) -> list[int]:
        """Return the clients of a private round, each drawn by itself under the run's key."""
        federation = self.setup.config.federation
        sizes = federation.num_clients, federation.cohort_size
        return secret_cohort(*sizes, self._noise(), round_idx)

    # --- sums of what clients send, which leave this process as a whole alone ---

    def _running(self, name: int | str, kind: Callable[..., Any], *args: Any) -> Any:
        """Return the running sum of this name, which takes the place of any other.

        One that begins here is `kind(*args)`.
        """
        if self._sum is None or self._sum[0] != name:
            self._sum = None  # before the new one: both may be large
            self._sum = (name, kind(*args))
        return self._sum[1]

    def sum_of(self, name: int | str) -> Any:
        """Return the sum of this name, None if this process has none."""
        return None if self._sum is None or self._sum[0] != name else self._sum[1]

    def forget_sum(self) -> None:
        """Drop the running sum."""
        self._sum = None

    def hidden_total(
        self, parts: Sequence[HiddenSum | None], broadcast: Broadcast, plan: RoundPlan
    ) -> HiddenSum:
        """Return the sum of all workers' sums of a round, with the noise of a private one."""
        form = self.settings.update_format(plan, broadcast)
        total = self.vector_total(parts, form.size)
        if isinstance(form, ClippedFormat):
            total.add(NOISE, 0, form.noise(self._noise(), plan.round_idx))
        return total

    def vector_total(self, parts: Sequence[HiddenSum | None], size: int) -> HiddenSum:
        """Return the sum of all workers' sums of vectors (size,)."""
        total = HiddenSum(size)
        for part in parts:
            if part is not None:
                total.merge(part)
        return total

    def add_parts(
        self, client_ids: Sequence[int], name: str, part: str, weights: np.ndarray, num_all: int
    ) -> None:
        """Add clients' own parts to the sum of this name, one of so many clients.

        A client without local layers of its own has those of the backbone `weights` (P,).
        """
        at, form = self.context.model.layout.parts.get(part, slice(0)), vector_form(num_all)
        for client_id in client_ids:
            own = self.private_state(client_id).parts.get(part)
            own = torch.from_numpy(weights[at]) if own is None else own
            numbers = form.encode(own.detach().cpu().numpy())
            total = self._running(name, HiddenSum, numbers.size)
            if client_id not in total.client_ids:
                total.add(client_id, 1, numbers)

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
        clients = self._all_data(client_ids)
        pairs = zip(clients, self._images_as(clients, weights), strict=True)
        return [self.evaluator.samples(client, images) for client, images in pairs]

    def _images_as(self, clients: Sequence[ClientData], weights: np.ndarray) -> list[Tensor]:
        """Return images (n, C, H, W) of each of these clients on the backbone (P,).

        Clients that differ by their embeddings alone are computed as one batch.
        """
        backbone, model = self.context.on_device(weights), self.context.model
        states = [self.private_state(client.client_id) for client in clients]
        if all(set(state.parts) == {CLIENT_EMB} for state in states):
            model.load(backbone)
            embs = [state.parts[CLIENT_EMB] for state in states]
            return self.evaluator.generate_all(clients, embs)
        reference, images = self.evaluator.reference(backbone), []
        for client, state in zip(clients, states, strict=True):
            emb = load_client(model, backbone, state)
            images.append(self.evaluator.generate(client, emb, reference))
        return images

    def losses(self, client_id: int, weights: np.ndarray, swap_with: int) -> HeldoutLosses:
        """Return a client's held-out losses with its own, zero and another client's embedding.

        `swap_with`: that client. One that is lent its own, because it alone is evaluated, has no
        loss with another's.
        """
        client, emb = self.client_data(client_id), self._loaded(client_id, weights)
        loss = functools.partial(self.evaluator.heldout_mean, client)
        if emb is None:
            return HeldoutLosses(client_id, loss(None), None, None)
        nobody = torch.zeros(self.setup.config.model.d_emb, device=self.context.device)
        own, zero, swapped = loss(emb), loss(nobody), None
        other = self.private_state(swap_with).client_emb
        if other is not None and swap_with != client_id:
            swapped = loss(other.to(self.context.device))
        return HeldoutLosses(client_id, own, zero, swapped)

    def losses_as(self, client_id: int, weights: np.ndarray, others: Sequence[int]) -> list[float]:
        """Return a client's held-out loss with each of these clients' own parts, at one noise."""
        client, loss = self.client_data(client_id), self.evaluator.heldout_mean
        return [loss(client, self._loaded(other, weights)) for other in others]

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
        return self.adapter.clip_norm(weights, settings, mean_emb)

    def adapt(
        self,
        client_ids: Sequence[int],
        weights: np.ndarray,
        settings: AdaptConfig,
        mean_emb: Tensor | None,
        pooled: Tensor | None = None,
        clip_norm: float | None = None,
    ) -> list[FittedClient]:
        """Fit new clients on the backbone (P,), as `ClientAdapter.fit` does; keep their parts here.

        With a `clip_norm` the fit is differentially private.
        """
        self.forget_sum()
        noise, clients = None if clip_norm is None else self._noise(), self._all_data(client_ids)
        found = self.adapter.fit(clients, weights, settings, mean_emb, pooled, clip_norm, noise)
        for fitted, state in found:
            self.store.save(fitted.client_id, 0, state)
        return [fitted for fitted, _ in found]

    def look(
        self,
        client_ids: Sequence[int],
        weights: np.ndarray,
        pooled: Tensor,
        asked: Sequence[LookAt],
    ) -> list[Look]:
        """Return looks at fitted new clients on the backbone (P,), as `ClientAdapter.look` does.

        `asked` correspond to `client_ids`, which may repeat a client. `pooled` as in `adapt`.
        """
        states = [self.private_state(client_id) for client_id in client_ids]
        states = [
            own if ask.is_kept else PrivateState({CLIENT_EMB: own.snapshots[ask.epoch]})
            for own, ask in zip(states, asked, strict=True)
        ]
        return self.adapter.look(self._all_data(client_ids), states, weights, pooled, asked)

    def text_controls(self, client_id: int) -> dict[str, dict[str, float]]:
        """Return the text scores of what each control draws for a new client's prompts."""
        client, num_images = self.client_data(client_id), self.setup.config.eval.num_images
        drawn = control_images(client, num_images, self.setup.partition)
        return {name: self.evaluator.text_scores(client, own) for name, own in drawn.items()}

    def image_controls(
        self, client_id: int, weights: np.ndarray, plan: ControlPlan
    ) -> dict[str, ControlScores]:
        """Return the scores of a new client's controls by name, which the plan has planned.

        One of them may be drawn by another client on the backbone (P,).
        """
        of_all, client = self.images, self.client_data(client_id)
        images = {k: to_float(torch.from_numpy(of_all[at])) for k, at in plan.positions.items()}
        if plan.drawn_as is not None:
            other = self.client_data(plan.drawn_as)
            [images[NEAREST_DRAWS]] = self._images_as([other], weights)
        return {name: self.evaluator.control_scores(client, own) for name, own in images.items()}

    # --- own parts of any client ---

    def export(self, client_id: int, folder: Path) -> str:
        """Write a client's own parts into a finished run's folder; return their SHA-256.

        The file of a new client's part says what is promised about its privacy.
        """
        state, config, guarantee = self.private_state(client_id), self.setup.config, None
        if state.parts:
            if client_id >= config.federation.num_clients:
                num_images = len(self.setup.partition.split(client_id).train)
                settings, num_embs = config.privacy.adapt, config.num_client_embs
                is_simulated = config.privacy.noise_key is not None
                guarantee = guarantee_of(settings, num_images, is_simulated, num_embs)
            texts = {} if guarantee is None else guarantee.as_texts()
            save_client(folder, client_id, state.parts, texts, state.guidance)
        return tensors_hash(dict(state.parts))

    # --- profiles ---

    def start_profile(self) -> None:
        """Start torch's profiler on this worker."""
        self.profiler.start()

    def save_profile(self, folder: Path, name: str) -> bool:
        """Write the trace since `start_profile`; return False if this worker started later."""
        return self.profiler.save(folder, name)

    def close(self) -> None:
        """Stop a profiler that still runs, and discard its trace."""
        self.profiler.stop()
