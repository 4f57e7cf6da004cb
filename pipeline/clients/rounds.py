"""The clients' part of the rounds: one worker simulates many clients in turn, and keeps none.

A worker is the same class in this process and inside a Ray actor. A client pool calls its tasks by
their names. A task looks up the clients' images and private states, works on them, and stores new
private states. All of these stay here. A worker returns sums of its clients' updates of the shared
weights, and measurements. P: length of the weight vector, n: images.
"""

import functools
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.profiler import record_function

from pipeline.clients.client_data import ClientData
from pipeline.clients.context import ModelContext
from pipeline.clients.evaluation import gallery_of
from pipeline.clients.memory import peak_bytes, resident_bytes
from pipeline.clients.store import ClientStore
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.rounds import RoundSettings
from pipeline.runs.layout import CLIENTS
from pipeline.runs.noise_key import read_noise
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
from spire_core.federated.private_state import PrivateState, load_client
from spire_core.federated.private_updates import NOISE, ClippedFormat
from spire_core.federated.server import ServerState, aggregate
from spire_core.federated.sums import HiddenSum, UpdateShape, UpdateSum, vector_form
from spire_core.methods import CLIENT_EMB, NETWORK_PARTS
from spire_core.network.grouped_layers import FlatGroup
from spire_core.pretrained.folder import check_same
from spire_core.privacy.noise import SecretNoise
from spire_core.training.fit import to_float
from spire_core.training.heldout import losses_by_row
from spire_core.training.several import EVERY, first_assignment, is_table, with_weights


@dataclass(frozen=True)
class StepCosts:
    """Seconds of a device for an image: of an optimizer step, and of one network evaluation.

    `peak_bytes`: the most memory that the step of a whole group took, on the GPU if it is there;
    `num_images`: those of that step. `collect_s`, `average_s`: of the server's processor in a
    round, for each worker's sum, and for the mean and the step.
    """

    train_s: float
    look_s: float
    peak_bytes: int = 0
    device: str = "cpu"
    num_images: int = 0
    collect_s: float = 0.0
    average_s: float = 0.0


class RoundWorker:
    """Simulates clients in rounds, on one device with one thread; see the module's docstring."""

    def __init__(self, setup: WorkerSetup, images: np.ndarray, device: str = "cpu") -> None:
        """Take the setup and all clients' uint8 images (N, C, H, W), possibly in shared memory.

        ConfigError if this machine has another pre-trained model than the run.
        """
        if (backbone := setup.config.model.backbone) is not None and setup.backbone_hash:
            check_same(backbone, setup.backbone_hash)
        self.setup, self.images = setup, images
        self.store = ClientStore(setup.folder / CLIENTS)
        self.context = ModelContext.start(setup.config, images.shape[1:], device)
        self.cache = setup.folder.parent / "cache"  # of all runs
        self.encode = self.context.encoder(self.cache)
        shared_size = self.context.model.layout.num_without_local
        self.settings = RoundSettings(setup.config, setup.partition.train_sizes, shared_size)
        self._sum: tuple[int | str, Any] | None = None  # of a round, or a mean, by its name

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
    def gallery(self) -> Gallery | None:
        """All clients' images with their captions, where prompts are scored."""
        return gallery_of(self.setup.partition, self.images, self.setup.tokens)

    def private_state(self, client_id: int, num_rounds_done: int | None = None) -> PrivateState:
        """Return a client's newest private state after at most so many rounds.

        A pre-training client that has never trained has a new one.
        """
        stored = self.store.load(client_id, num_rounds_done)
        return self.context.new_state(client_id) if stored is None else stored

    @functools.cached_property
    def noise(self) -> SecretNoise:
        """The private noise of the run, by its secret key."""
        return read_noise(self.setup.folder, self.setup.config.privacy)

    # --- rounds of pre-training ---

    def fit(
        self, client_ids: Sequence[int], broadcast: Broadcast, plan: RoundPlan
    ) -> list[ClientReport]:
        """Train clients together, add their updates to this round's sum, return their reports.

        A client that is in the sum already stays there once. Where the sum alone may be seen, a
        report has no loss.
        """
        form = self.settings.update_format(plan, broadcast) if plan.hides_updates else None
        new_sum = functools.partial(self.settings.new_sum, plan, broadcast)
        total, reports = self._running(plan.round_idx, new_sum), list[ClientReport]()
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
        updates, done = [], plan.round_idx + 1
        for update, state in self.trained(client_ids, plan.round_idx, broadcast, plan):
            if not state.is_empty:
                self.store.save(update.client_id, done, state, plan.kept_rounds)
            updates.append(update)
        return updates

    def trained(
        self, client_ids: Sequence[int], num_rounds_done: int, broadcast: Broadcast, plan: RoundPlan
    ) -> list[tuple[ClientUpdate, PrivateState]]:
        """Train clients together, each from its state after so many rounds; nothing is stored.

        Returns each one's update, as it arrives, and its new state.
        """
        context, settings, results = self.context, self.setup.config.client, []
        clients = [self.client_data(client_id) for client_id in client_ids]
        states = [self.private_state(client_id, num_rounds_done) for client_id in client_ids]
        states = [self._assigned(*pair, broadcast) for pair in zip(clients, states, strict=True)]
        inputs = [
            replace(context.for_training(client), rows=state.rows)
            for client, state in zip(clients, states, strict=True)
        ]
        objective = replace(
            context.objective(),
            emb_dropout=settings.emb_dropout,
            text_dropout=settings.text_dropout,
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
                    train_client(context.model, broadcast, one, own, settings, objective, plan)
                ]
        for before, (update, after) in zip(states, finished, strict=True):
            arrived, residual = lossy(update, broadcast, before.residual, settings)
            arrived = weighted(arrived, broadcast, self.setup.config.method.record.weight)
            kept = replace(after, residual=residual, assignment=before.assignment)
            results.append((arrived, kept))
        return results

    @functools.cached_property
    def group(self) -> FlatGroup:
        """The networks of the clients that are computed together, made on first use."""
        context, config = self.context, self.setup.config
        largest = config.client.largest_group(config.federation.cohort_size)
        channels, device = context.image_shape[0], context.device
        return FlatGroup(config.model, config.method, channels, largest, device)

    def _assigned(
        self, client: ClientData, state: PrivateState, broadcast: Broadcast
    ) -> PrivateState:
        """Return the state of a client at the start of its round.

        Of a client with several embeddings, all its images belong to one of these: at first by
        clusters or classes, then by their losses, every few rounds in which it takes part.
        """
        context, table = self.context, state.parts.get(CLIENT_EMB)
        if table is None or not is_table(table):
            return state
        images = context.for_training(client)
        found = state.assignment or first_assignment(images, len(table))
        if found.is_refined and found.num_visits % EVERY == EVERY - 1:
            emb = load_client(context.model, context.on_device(broadcast.weights), state)
            assert emb is not None
            purpose = f"assign {found.num_visits}"
            losses = losses_by_row(context.model, emb, images, context.diffusion, purpose)
            found = found.seen(losses)
        found = replace(found, num_visits=found.num_visits + 1)
        parts = {**state.parts, CLIENT_EMB: with_weights(table, found)}
        return replace(state, parts=parts, assignment=found)

    def private_cohort(self, _: int, round_idx: int) -> list[int]:
        """Return the clients of a private round, each drawn by itself under the run's key."""
        federation = self.setup.config.federation
        return secret_cohort(federation.num_clients, federation.cohort_size, self.noise, round_idx)

    # --- sums of what clients send, which leave this process as a whole alone ---

    def _running(self, name: int | str, new_sum: Callable[[], Any]) -> Any:
        """Return the running sum of this name, or a new one that takes the place of any other."""
        if self._sum is None or self._sum[0] != name:
            self._sum = None  # before the new one: both may be large
            self._sum = (name, new_sum())
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
        total = HiddenSum.of(parts, form.size)
        if isinstance(form, ClippedFormat):
            total.add(NOISE, 0, form.noise(self.noise, plan.round_idx))
        return total

    def vector_total(self, parts: Sequence[HiddenSum | None], size: int) -> HiddenSum:
        """Return the sum of all workers' sums of vectors (size,)."""
        return HiddenSum.of(parts, size)

    def add_parts(
        self, client_ids: Sequence[int], name: str, part: str, weights: np.ndarray, num_all: int
    ) -> None:
        """Add clients' own parts to the sum of this name, one of so many clients.

        A client without local layers of its own has those of the backbone `weights` (P,).
        """
        at, form = self.context.model.layout.parts.get(part, slice(0)), vector_form(num_all)
        for client_id in client_ids:
            own = self.private_state(client_id).parts.get(part)
            numbers = form.encode(weights[at] if own is None else own.detach().cpu().numpy())
            total = self._running(name, functools.partial(HiddenSum, numbers.size))
            if client_id not in total.client_ids:
                total.add(client_id, 1, numbers)

    # --- costs ---

    def measure_step(self) -> StepCosts:
        """Return the costs of a step of the clients that are computed together, and of one look.

        They are those of a rehearsal, at a learning rate of 0, of which nothing is kept. Each is
        done twice, and the second time counts.
        """
        context, config, before = self.context, self.setup.config, resident_bytes()
        size, device = config.client.batch_size, context.device
        group = config.resolved_client.groups(range(config.federation.cohort_size))[0]
        step_s = _second_of_two(lambda: self._rehearse(group), device)
        clients = [self.client_data(client_id) for client_id in group]
        num_trained = sum(len(client.split.train[:size]) for client in clients)
        x = to_float(context.for_training(clients[0]).images[:size].to(device))
        t, emb = torch.zeros(len(x), dtype=torch.long, device=device), None
        if config.method.record.has_embedding:
            emb = torch.zeros(len(x), config.model.d_emb, device=device)
        with torch.inference_mode():
            look_s = _second_of_two(lambda: context.model.net(x, t, emb), device)
        peak = max(0, peak_bytes() - before)
        if device.type == "cuda":
            peak = torch.cuda.max_memory_reserved(device)
        step_s, look_s = step_s / num_trained, look_s / len(x)
        return StepCosts(step_s, look_s, peak, device.type, num_trained)

    def measure_server(self) -> tuple[float, float]:
        """Return `collect_s` and `average_s` of `StepCosts`, from a rehearsal of one client."""
        total, broadcast, shape = self._rehearse(range(1))
        whole, state = UpdateSum(broadcast, shape), ServerState.initial(broadcast.weights)
        server, cpu = self.setup.config.server, torch.device("cpu")
        collect_s = _second_of_two(lambda: whole.merge(pickle.loads(pickle.dumps(total))), cpu)
        return collect_s, _second_of_two(lambda: aggregate(state, whole.mean(), server), cpu)

    def _rehearse(self, client_ids: Sequence[int]) -> tuple[UpdateSum, Broadcast, UpdateShape]:
        """Take a step of each phase as in a round, and return the sum of the updates."""
        config, weights = self.setup.config, self.context.model.weights.cpu().numpy().copy()
        moments = None
        if config.client.opt_state == "average":  # as from the second round on
            steps = np.zeros(len(NETWORK_PARTS), np.float32)
            moments = AdamMoments(np.zeros_like(weights), np.zeros_like(weights), steps)
        tau = 2 if config.method.alternates else 1
        plan, broadcast = RoundPlan(0, 0.0, shares_local=True, tau=tau), Broadcast(weights, moments)
        shape = self.settings.update_shape(plan, weights.size)
        total = UpdateSum(broadcast, shape)
        for update, _ in self.trained(client_ids, 0, broadcast, plan):
            total.add(update)
        return total, broadcast, shape


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
