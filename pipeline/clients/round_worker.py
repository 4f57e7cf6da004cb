"""A worker's part in rounds: training, and the running sum of the updates that are made here.

P: length of the weight vector.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.clients.client_data import ClientData
from pipeline.clients.context import ModelContext
from pipeline.clients.latents import encoder_of
from pipeline.clients.profiler import WorkerProfiler
from pipeline.clients.rounds import ClientTrainer
from pipeline.clients.store import ClientStore
from pipeline.clients.text_scores import gallery_of
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.rounds import RoundSettings
from pipeline.runs.layout import CLIENTS
from pipeline.runs.noise_key import read_noise
from spire_core.evaluation.prompted_images import Gallery
from spire_core.federated.messages import Broadcast, ClientReport, ClientUpdate, RoundPlan
from spire_core.federated.participation import secret_cohort
from spire_core.federated.private_state import PrivateState
from spire_core.federated.private_updates import NOISE, ClippedFormat
from spire_core.federated.sums import HiddenSum, UpdateSum, vector_form
from spire_core.pretrained.folder import check_same


class RoundWorker:
    """Has the images and private states of clients, and trains them in rounds."""

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
        self.encode = encoder_of(self.context.diffusion, self.cache)
        sizes, layout = setup.partition.train_sizes, self.context.model.layout
        self.settings = RoundSettings.of(setup.config, sizes, layout)
        self._sum: tuple[int | str, Any] | None = None  # of a round, or a mean, by its name
        self.profiler = WorkerProfiler(self.context.device)

    def client_data(self, client_id: int) -> ClientData:
        """Return a client's images; with its class mixture if the client has scores."""
        split = self.setup.partition.split(client_id)
        mixture = self.setup.mixtures.get(client_id)
        text = (self.setup.tokens, self.setup.labels, self.gallery)
        return ClientData(split, self.images, mixture, *text, self.encode, self.setup.reference)

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
        total = _added(parts, form.size)
        if isinstance(form, ClippedFormat):
            noise = read_noise(self.setup.folder, self.setup.config.privacy)
            total.add(NOISE, 0, form.noise(noise, plan.round_idx))
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

    def vector_total(self, parts: Sequence[HiddenSum | None], size: int) -> HiddenSum:
        """Return the sum of all workers' sums of vectors (size,)."""
        return _added(parts, size)

    # --- rounds with differential privacy ---

    def private_cohort(self, _: int, round_idx: int) -> list[int]:
        """Return the clients of a round, each drawn by itself under the run's key."""
        noise = read_noise(self.setup.folder, self.setup.config.privacy)
        federation = self.setup.config.federation
        return secret_cohort(federation.num_clients, federation.cohort_size, noise, round_idx)

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


def _added(parts: Sequence[HiddenSum | None], size: int) -> HiddenSum:
    total = HiddenSum(size)
    for part in parts:
        if part is not None:
            total.merge(part)
    return total


def _report(update: ClientUpdate, weight: int, form: Any) -> ClientReport:
    """Return what the driver is told of an update: no loss, where the sum alone is seen."""
    if form is None:
        loss, num_bytes = update.loss, update.num_bytes
    else:
        loss, num_bytes = None, 8 * form.size
    return ClientReport(update.client_id, weight, update.num_steps, loss, num_bytes)
