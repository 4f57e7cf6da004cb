"""The clients' side: one worker simulates many clients in turn and keeps none in memory.

A worker is the same class in this process and inside a Ray actor. A client pool calls the tasks
below by their names. Each task looks up the clients' images and private states, has the trainer,
the evaluator or the adapter work on them, and stores new private states. Images and private states
stay here. A worker returns sums of its clients' updates of the shared weights, and measurements.

P: length of the weight vector, n: images, D: features, D_emb: numbers of an embedding.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.clients.adaptation import ClientAdapter
from pipeline.clients.client_data import ClientData
from pipeline.clients.context import ModelContext
from pipeline.clients.evaluation import ClientEvaluator
from pipeline.clients.profiler import WorkerProfiler
from pipeline.clients.rounds import ClientTrainer
from pipeline.clients.store import ClientStore
from pipeline.clients.text_scores import gallery_of
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
from spire_core.federated.private_state import PrivateState
from spire_core.federated.private_updates import NOISE, ClippedFormat
from spire_core.federated.sums import HiddenSum, UpdateSum, vector_form
from spire_core.network.flat_model import tensors_hash
from spire_core.pretrained.folder import check_same
from spire_core.privacy.guarantee import guarantee_of
from spire_core.privacy.noise import SecretNoise


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
        self.cache = setup.folder.parent / "cache"  # of all runs
        self.encode = self.context.encoder(self.cache)
        self.evaluator = ClientEvaluator(self.context, setup.extractor, self.cache)
        self.adapter = ClientAdapter(self.evaluator)
        sizes, layout = setup.partition.train_sizes, self.context.model.layout
        self.settings = RoundSettings.of(setup.config, sizes, layout)
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

    def _noise(self) -> SecretNoise:
        return read_noise(self.setup.folder, self.setup.config.privacy)

    def is_ready(self) -> bool:
        """Return that this process has a worker."""
        return True

    # --- rounds of pre-training ---

    def fit(
        self, client_ids: Sequence[int], broadcast: Broadcast, plan: RoundPlan
    ) -> list[ClientReport]:
        """Train clients together, add their updates to this round's sum, return their reports.

        A client that is in the sum already stays there once.
        """
        updates = self.train(client_ids, broadcast, plan)
        form = self.settings.update_format(plan, broadcast) if plan.hides_updates else None
        weights = [1 if plan.private else update.num_examples for update in updates]
        total = self._running(plan.round_idx, lambda: self._empty(broadcast, plan))
        with self._whole_or_none():
            for update, weight in zip(updates, weights, strict=True):
                if update.client_id in total.client_ids:
                    continue
                if form is None:
                    total.add(update)
                else:
                    total.add(update.client_id, weight, form.encode(update))
        return [_report(u, w, form) for u, w in zip(updates, weights, strict=True)]

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

    def rehearse(self) -> None:
        """Take one optimizer step as in a round, so that memory can be measured; keep nothing."""
        config = self.setup.config
        groups = config.resolved_client.groups(range(config.federation.cohort_size))
        self.trainer.rehearse(self._all_data(groups[0]))

    def private_cohort(self, _: int, round_idx: int) -> list[int]:
        """Return the clients of a private round, each drawn by itself under the run's key."""
        federation = self.setup.config.federation
        return secret_cohort(
            federation.num_clients, federation.cohort_size, self._noise(), round_idx
        )

    # --- sums of what clients send, which leave this process as a whole alone ---

    def _empty(self, broadcast: Broadcast, plan: RoundPlan) -> UpdateSum | HiddenSum:
        if plan.hides_updates:
            return HiddenSum(self.settings.update_format(plan, broadcast).size)
        shape = self.settings.update_shape(plan, broadcast.weights.size)
        return UpdateSum(broadcast, shape)

    def _running(self, name: int | str, empty: Callable[[], Any]) -> Any:
        """Return the running sum of this name, which takes the place of any other."""
        if self._sum is None or self._sum[0] != name:
            self._sum = None  # before the new one: both may be large
            self._sum = (name, empty())
        return self._sum[1]

    @contextlib.contextmanager
    def _whole_or_none(self) -> Iterator[None]:
        """Drop the sum if a block ends in the middle of an addition."""
        try:
            yield
        except BaseException:
            self.forget_sum()
            raise

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
            total = self._running(name, lambda size=numbers.size: HiddenSum(size))
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
        states = [self.private_state(client_id) for client_id in client_ids]
        clients = self._all_data(client_ids)
        drawn = self.evaluator.images_as(clients, states, weights)
        pairs = zip(clients, drawn, strict=True)
        return [self.evaluator.samples(client, images) for client, images in pairs]

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
        clients, protection = self._all_data(client_ids), None
        if clip_norm is not None:
            protection = self.adapter.protection(settings, clip_norm, self._noise())
        found = self.adapter.fit(clients, weights, settings, mean_emb, pooled, protection)
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
        """Return looks at new clients that were fitted in one batch, on the backbone (P,).

        `asked` correspond to `client_ids`, which may repeat a client. `pooled` as in `adapt`.
        """
        embs = [self.private_state(ask.client_id).snapshots[ask.epoch] for ask in asked]
        return self.adapter.look(self._all_data(client_ids), embs, weights, pooled, asked)

    def text_controls(self, client_id: int) -> dict[str, dict[str, float]]:
        """Return the scores of what each control draws for a new client's prompts."""
        return self.evaluator.text_controls(self.client_data(client_id), self.setup.partition)

    def image_controls(
        self, client_id: int, weights: np.ndarray, plan: ControlPlan
    ) -> dict[str, ControlScores]:
        """Return the scores of a new client's controls, on the backbone (P,) where one draws."""
        drawn, old = None, plan.drawn_as
        if old is not None:
            states = [self.private_state(old)]
            [drawn] = self.evaluator.images_as(self._all_data([old]), states, weights)
        return self.evaluator.image_controls(self.client_data(client_id), plan, drawn)

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


def _report(update: ClientUpdate, weight: int, form: Any) -> ClientReport:
    """Return what the driver is told of an update: no loss, where the sum alone is seen."""
    if form is None:
        loss, num_bytes = update.loss, update.num_bytes
    else:
        loss, num_bytes = None, 8 * form.size
    return ClientReport(update.client_id, weight, update.num_steps, loss, num_bytes)
