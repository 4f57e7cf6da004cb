"""The clients' part of the rounds: one worker simulates many clients in turn, and keeps none.

A worker is the same class in this process and inside a Ray actor. A client pool calls its tasks by
their names. A task looks up the clients' images and private states, works on them, and stores new
private states. All of these stay here. A worker returns sums of its clients' updates of the shared
weights, and measurements. P: length of the weight vector, n: images.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from pipeline.clients.client_data import ClientData, gallery_of
from pipeline.clients.memory import keep_freed_memory, peak_bytes, resident_bytes
from pipeline.clients.store import ClientStore
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.rounds import RoundSettings
from pipeline.runs.layout import CLIENTS
from pipeline.runs.noise_key import read_noise
from spire_core.config.client import ClientConfig
from spire_core.diffusion.process import Diffusion
from spire_core.evaluation.extractors import cached
from spire_core.evaluation.prompted_images import Gallery
from spire_core.federated.client import train_client, weighted
from spire_core.federated.client_group import train_group
from spire_core.federated.compression import lossy
from spire_core.federated.messages import (
    AdamMoments,
    Broadcast,
    ClientReport,
    ClientUpdate,
    RoundPlan,
)
from spire_core.federated.participation import secret_cohort
from spire_core.federated.private_state import PrivateState, assigned, new_private_state
from spire_core.federated.private_updates import NOISE, ClippedFormat
from spire_core.federated.sums import HiddenSum, UpdateSum, vector_form
from spire_core.methods import NETWORK_PARTS
from spire_core.network.flat_model import FlatModel
from spire_core.network.grouped_layers import FlatGroup
from spire_core.pretrained.folder import check_same
from spire_core.privacy.noise import SecretNoise
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective, to_float
from spire_core.training.several import rows_by_class


@dataclass(frozen=True)
class StepCosts:
    """Seconds of a device for an image: of an optimizer step, and of one network evaluation.

    `peak_bytes`: the most memory that the step of a whole group took, on the GPU if it is there;
    `num_images`: those of that step.
    """

    train_s: float
    look_s: float
    peak_bytes: int = 0
    device: str = "cpu"
    num_images: int = 0


class RoundWorker:
    """Simulates clients in rounds, on one device with one thread; see the module's docstring."""

    def __init__(self, setup: WorkerSetup, images: np.ndarray, device: str = "cpu") -> None:
        """Take the setup and all clients' uint8 images (N, C, H, W), possibly in shared memory.

        The process that computes is prepared here. ConfigError if this machine has another
        pre-trained model than the run.
        """
        self.setup, self.images, self.config, config = setup, images, setup.config, setup.config
        if (backbone := config.model.backbone) is not None and setup.backbone_hash:
            check_same(backbone, setup.backbone_hash)
        keep_freed_memory()
        self.device, (channels, height, width) = torch.device(device), images.shape[1:]
        self.image_shape = (channels, height, width)
        prepare_torch(config.client, self.device)
        self.diffusion = Diffusion.of(config.diffusion, self.device, backbone)
        self.model = FlatModel(config.model, config.method, channels, self.device)
        self.objective = TrainingObjective(
            self.diffusion,
            precision=config.client.precision,
            micro_batch=config.client.micro_batch,
            below=config.method.own_timesteps(self.diffusion.config.num_timesteps),
            own_loss=config.method.record.loss,
        )
        self.store = ClientStore(setup.folder / CLIENTS)
        self.cache = setup.folder.parent / "cache"  # of all runs
        shared_size = self.model.layout.num_without_local
        self.settings = RoundSettings(config, setup.partition.train_sizes, shared_size)
        self._sum: tuple[int | str, Any] | None = None  # of a round, or a mean, by its name

    def on_device(self, weights: np.ndarray) -> Tensor:
        """Return a copy of the weights (P,) on the device."""
        return torch.tensor(weights, device=self.device)

    # --- what a client has ---

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
    def encode(self) -> Callable[[Tensor], Tensor] | None:
        """The function from uint8 images (n, C, H, W) to latents (n, c, h, w) on the CPU.

        None for a process of pixels. Each image is encoded once, on the clients' side, where later
        rounds read its latent. The server sees none.
        """
        codec = self.diffusion.codec
        if codec is None:
            return None
        return lambda images: cached(codec.encode, codec.name, to_float(images), self.cache)

    def for_training(self, client: ClientData) -> ClientContext:
        """Return a client with its training images, and with their embeddings if classes tell.

        Classes tell nothing of a client that arrives with images alone.
        """
        positions, model, rows = client.split.train, self.config.model, None
        if model.num_embs > 1 and model.assign == "classes" and client.labels is not None:
            rows = rows_by_class(client.labels[positions], model.num_embs)
        return replace(client.with_images_at(positions, self.config.seed), rows=rows)

    @functools.cached_property
    def gallery(self) -> Gallery | None:
        """All clients' images with their captions, where prompts are scored."""
        return gallery_of(self.setup.partition, self.images, self.setup.tokens)

    def private_state(self, client_id: int, num_rounds_done: int | None = None) -> PrivateState:
        """Return a client's newest private state after at most so many rounds.

        A pre-training client that has never trained has a new one.
        """
        stored = self.store.load(client_id, num_rounds_done)
        return self.new_state(client_id) if stored is None else stored

    def new_state(self, client_id: int) -> PrivateState:
        """Return the private state of a client before its first round; its embedding is random."""
        config, sizes = self.config, self.config.model
        return new_private_state(
            self.model, config.client, sizes.d_emb, config.seed, client_id, sizes.num_embs
        )

    @functools.cached_property
    def noise(self) -> SecretNoise:
        """The private noise of the run, by its secret key."""
        return read_noise(self.setup.folder, self.config.privacy)

    # --- rounds of pre-training ---

    def fit(
        self, client_ids: Sequence[int], broadcast: Broadcast, plan: RoundPlan
    ) -> list[ClientReport]:
        """Train clients together, add their updates to this round's sum, return their reports.

        A client that is in the sum already stays there once. Where the sum alone may be seen, a
        report has no loss. The noise of a private round stands in the place of a client.
        """
        form = self.settings.update_format(plan, broadcast) if plan.hides_updates else None
        name, reports = plan.round_idx, list[ClientReport]()

        def new_sum() -> UpdateSum | HiddenSum:
            return HiddenSum(form.size) if form else UpdateSum(broadcast, plan.num_examples)

        if tuple(client_ids) == (NOISE,):
            total = self._running(name, new_sum)
            if isinstance(form, ClippedFormat) and NOISE not in total.client_ids:
                total.add(NOISE, 0, form.noise(self.noise, plan.round_idx))
            return reports
        for update, state in self.trained(client_ids, plan.round_idx, broadcast, plan):
            if not state.is_empty:
                self.store.save(update.client_id, plan.round_idx + 1, state, plan.kept_rounds)
            client_id, loss, num_bytes = update.client_id, update.loss, update.num_bytes
            weight, total = 1 if plan.private else update.num_examples, self._running(name, new_sum)
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

    def trained(
        self, client_ids: Sequence[int], num_rounds_done: int, broadcast: Broadcast, plan: RoundPlan
    ) -> list[tuple[ClientUpdate, PrivateState]]:
        """Train clients together, each from its state after so many rounds; nothing is stored.

        Returns each one's update, as it arrives, and its new state.
        """
        settings, results = self.config.client, []
        inputs, states = list[ClientContext](), list[PrivateState]()
        for client_id in client_ids:
            images = self.for_training(self.client_data(client_id))
            client, state = assigned(images, self.private_state(client_id, num_rounds_done))
            inputs.append(client)
            states.append(state)
        objective = replace(
            self.objective, emb_dropout=settings.emb_dropout, text_dropout=settings.text_dropout
        )
        span = f"round {plan.round_idx + 1}"
        if plan.private is None:  # of which a profile names nobody
            span += f", clients {', '.join(map(str, client_ids))}"
        with record_function(span):
            if len(inputs) > 1:
                finished = train_group(
                    self.group, broadcast, inputs, states, settings, objective, plan
                )
            else:
                [one], [own] = inputs, states
                finished = [
                    train_client(self.model, broadcast, one, own, settings, objective, plan)
                ]
        for before, (update, after) in zip(states, finished, strict=True):
            arrived, residual = lossy(update, broadcast, before.residual, settings)
            arrived = weighted(arrived, broadcast, self.config.method.record.weight)
            kept = replace(after, residual=residual, rows=before.rows)
            results.append((arrived, kept))
        return results

    @functools.cached_property
    def group(self) -> FlatGroup:
        """The networks of the clients that are computed together, made on first use."""
        config, channels = self.config, self.image_shape[0]
        largest = config.client.largest_group(config.federation.cohort_size)
        return FlatGroup(config.model, config.method, channels, largest, self.device)

    def private_cohort(self, _: int, round_idx: int) -> list[int]:
        """Return the clients of a private round, each drawn by itself under the run's key."""
        federation = self.config.federation
        return secret_cohort(federation.num_clients, federation.cohort_size, self.noise, round_idx)

    # --- sums of what clients send, which leave this process as a whole alone ---

    def _running(self, name: int | str, new_sum: Callable[[], Any]) -> Any:
        """Return the running sum of this name, or a new one that takes the place of any other."""
        if self._sum is None or self._sum[0] != name:
            self._sum = None  # before the new one: both may be large
            self._sum = (name, new_sum())
        return self._sum[1]

    def summed(self, name: int | str) -> list[int]:
        """Return the clients in the sum of this name here."""
        return self._sum[1].client_ids if self._sum and self._sum[0] == name else []

    def merged(self, name: int | str, others: Any) -> Any:
        """Return the sum of this name here with that of other workers; None is that of nobody.

        The one here then has the other clients as well.
        """
        own = self._sum[1] if self._sum and self._sum[0] == name else None
        if own is None:
            return others
        if others is not None:
            own.merge(others)
        return own

    def forget_sum(self) -> None:
        """Drop the running sum."""
        self._sum = None

    def add_parts(
        self, client_ids: Sequence[int], name: str, part: str, weights: np.ndarray, num_all: int
    ) -> None:
        """Add clients' own parts to the sum of this name, one of so many clients.

        A client without local layers of its own has those of the backbone `weights` (P,).
        """
        at, form = self.model.layout.parts.get(part, slice(0)), vector_form(num_all)
        for client_id in client_ids:
            own = self.private_state(client_id).parts.get(part)
            numbers = form.encode(weights[at] if own is None else own.detach().cpu().numpy())
            total = self._running(name, functools.partial(HiddenSum, numbers.size))
            if client_id not in total.client_ids:
                total.add(client_id, 1, numbers)

    # --- costs ---

    def measure_step(self, num_steps: int = 1) -> StepCosts:
        """Return the costs of a step of the clients that are computed together, and of one look.

        They are those of a rehearsed round of so many steps, at a learning rate of 0, of which
        nothing is kept. Each is done twice, and the second time counts.
        """
        config, before = self.config, resident_bytes()
        size, device = config.client.batch_size, self.device
        group = config.resolved_client.groups(range(config.federation.cohort_size))[0]
        step_s = _second_of_two(lambda: self._rehearse(group, num_steps), device)
        clients = [self.client_data(client_id) for client_id in group]
        num_trained = sum(len(client.split.train[:size]) for client in clients)
        x = to_float(self.for_training(clients[0]).images[:size].to(device))
        t, emb = torch.zeros(len(x), dtype=torch.long, device=device), None
        if config.method.record.has_embedding:
            emb = torch.zeros(len(x), config.model.d_emb, device=device)
        with torch.inference_mode():
            look_s = _second_of_two(lambda: self.model.net(x, t, emb), device)
        peak = max(0, peak_bytes() - before)
        if device.type == "cuda":
            peak = torch.cuda.max_memory_reserved(device)
        step_s, look_s = step_s / (num_steps * num_trained), look_s / len(x)
        return StepCosts(step_s, look_s, peak, device.type, num_trained)

    def _rehearse(self, client_ids: Sequence[int], num_steps: int) -> None:
        """Take so many steps of each phase as in a round, and add the updates up."""
        config, weights = self.config, self.model.weights.cpu().numpy().copy()
        moments = None
        if config.client.opt_state == "average":  # as from the second round on
            steps = np.zeros(len(NETWORK_PARTS), np.float32)
            moments = AdamMoments(np.zeros_like(weights), np.zeros_like(weights), steps)
        tau = num_steps * (2 if config.method.alternates else 1)
        plan, broadcast = RoundPlan(0, 0.0, shares_local=True, tau=tau), Broadcast(weights, moments)
        total = UpdateSum(broadcast, plan.num_examples)
        for update, _ in self.trained(client_ids, 0, broadcast, plan):
            total.add(update)


def _second_of_two(call: Callable[[], object], device: torch.device) -> float:
    def seconds() -> float:
        if device.type != "cuda":
            return time.process_time()
        torch.cuda.synchronize(device)
        return time.perf_counter()

    call()
    began = seconds()
    call()
    return seconds() - began


def prepare_torch(client: ClientConfig, device: torch.device) -> None:
    """Set torch to one thread, and to the precision of matrix products on a GPU."""
    torch.set_num_threads(1)
    allows_tf32 = client.precision == "tf32" and device.type == "cuda"
    torch.set_float32_matmul_precision("high" if allows_tf32 else "highest")
