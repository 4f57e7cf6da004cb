"""A worker's part in rounds: training, sums of updates, masks and noise.

P: length of the weight vector.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.clients.client_data import ClientData
from pipeline.clients.context import ModelContext
from pipeline.clients.latents import encoder_of
from pipeline.clients.masking import MaskingClients
from pipeline.clients.profiler import WorkerProfiler
from pipeline.clients.rounds import ClientTrainer
from pipeline.clients.store import ClientStore
from pipeline.clients.text_scores import gallery_of
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.receiving import Message, UpdateReceiver
from pipeline.federation.rounds import RoundSettings
from pipeline.runs.layout import CLIENTS
from pipeline.runs.noise_key import read_noise
from spire_core.evaluation.prompted_images import Gallery
from spire_core.federated.accumulation import Part
from spire_core.federated.messages import (
    Broadcast,
    ClientReport,
    ClientUpdate,
    CompressedUpdate,
    IntegerMessage,
    RoundPlan,
)
from spire_core.federated.participation import secret_cohort
from spire_core.federated.private_state import PrivateState
from spire_core.federated.private_updates import ClippedFormat
from spire_core.pretrained.folder import check_same
from spire_core.secure_sum.keys import PublicKeys
from spire_core.secure_sum.protocol import SumPlan


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
        settings = RoundSettings.of(setup.config, sizes, layout)
        self.receiver = UpdateReceiver(settings)
        self.masking = MaskingClients(setup.folder, settings)
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

    # --- rounds of pre-training ---

    def fit_group(
        self, client_ids: Sequence[int], broadcast: Broadcast, plan: RoundPlan
    ) -> list[ClientReport]:
        """Train clients together, accumulate their updates here, and return a report of each."""
        messages: Sequence[Message] = self.train(client_ids, broadcast, plan)
        if plan.sums_integers:
            messages = self.masking.messages(messages, broadcast, plan)
        return self.receiver.receive(client_ids, messages, broadcast, plan)

    def train(
        self, client_ids: Sequence[int], broadcast: Broadcast, plan: RoundPlan
    ) -> list[ClientUpdate | CompressedUpdate]:
        """Train clients together and return the messages of their updates.

        The new private states stay here.
        """
        clients, messages = self._all_data(client_ids), []
        states = [self.private_state(client_id, plan.round_idx) for client_id in client_ids]
        for message, state in self.trainer.train(clients, states, broadcast, plan):
            if not state.is_empty:
                done = plan.round_idx + 1
                self.store.save(message.client_id, done, state, plan.kept_rounds)
            messages.append(message)
        return messages

    def round_part(self, round_idx: int, start: int, stop: int) -> Part | None:
        """Return a stretch of the updates accumulated here in a round, None without any."""
        return self.receiver.part(round_idx, start, stop)

    def forget_round(self) -> None:
        """Drop all updates that are accumulated here."""
        self.receiver.forget()

    def rehearse(self) -> None:
        """Take one optimizer step as in a round, so that memory can be measured; keep nothing."""
        config = self.setup.config
        groups = config.resolved_client.groups(range(config.federation.cohort_size))
        self.trainer.rehearse(self._all_data(groups[0]))

    def start_profile(self) -> None:
        """Start torch's profiler on this worker."""
        self.profiler.start()

    def save_profile(self, folder: Path, name: str) -> bool:
        """Write the trace since `start_profile`; return False if this worker started later."""
        return self.profiler.save(folder, name)

    def stop_profile(self) -> None:
        """Stop the profiler and discard its trace."""
        self.profiler.stop()

    # --- rounds with differential privacy ---

    def private_cohort(self, _: int, round_idx: int) -> list[int]:
        """Return the clients of a round, each drawn by itself under the run's key."""
        noise = read_noise(self.setup.folder, self.setup.config.privacy)
        federation = self.setup.config.federation
        return secret_cohort(federation.num_clients, federation.cohort_size, noise, round_idx)

    def add_noise(self, unit: int, broadcast: Broadcast, plan: RoundPlan) -> list[ClientReport]:
        """Add a round's noise to the sum that is accumulated here, and return its report."""
        noise = read_noise(self.setup.folder, self.setup.config.privacy)
        form = self.receiver.settings.update_format(plan, broadcast)
        assert isinstance(form, ClippedFormat)  # the plan is private
        message = IntegerMessage(unit, 1, 0, form.noise(noise, plan.round_idx))
        return self.receiver.receive([unit], [message], broadcast, plan)

    # --- secure sums ---

    def advertise_keys(self, client_id: int, sum_name: str) -> PublicKeys:
        """Return a client's public keys in a sum."""
        return self.masking.public_keys(client_id, sum_name)

    def share_keys(self, client_id: int, plan: SumPlan) -> dict[int, bytes]:
        """Return the sealed shares of a client's secrets, by the client that each is for."""
        return self.masking.shares(client_id, plan)

    def reveal_shares(
        self, client_id: int, plan: SumPlan, remaining: frozenset[int], sealed: dict[int, bytes]
    ) -> dict[int, bytes]:
        """Return a client's shares that take the masks off the sum of those that remain."""
        return self.masking.reveal(client_id, plan, remaining, sealed)

    def masked_part(
        self, client_id: int, plan: SumPlan, part: str, weights: np.ndarray
    ) -> np.ndarray:
        """Return this client's own part under masks that cancel in the sum.

        A client without local layers of its own sends those of the backbone `weights` (P,).
        """
        own = self.private_state(client_id).parts.get(part)
        if own is None:
            own = torch.from_numpy(weights[self.context.model.layout.parts[part]])
        return self.masking.vector(client_id, own, plan)
