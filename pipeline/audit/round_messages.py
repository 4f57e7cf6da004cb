"""A round from the finished state of a run, as the server sees it. Nothing of it is stored.

K: clients that do not take part; D_emb: numbers of an embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.clients.worker import ClientWorker
from pipeline.federation.partitioning import promise_to_clients
from pipeline.federation.private_rounds import clip_norm_of
from spire_core.errors import AggregationError
from spire_core.federated.compression import decompress
from spire_core.federated.messages import Broadcast, ClientUpdate, RoundPlan, UpdateFault
from spire_core.federated.participation import choose_cohort
from spire_core.federated.server import ServerState
from spire_core.training.adam import BETAS

MAX_OTHERS = 64  # clients outside the cohort whose embeddings are compared


@dataclass(frozen=True, eq=False)
class Message:
    """A client's update as the server knows it, and the embedding (D_emb,) behind it.

    `decay`: the part of the first moments that were handed out which is left in the update's.
    In a secure sum a message is uniform whatever it hides, so that the mean update of its cohort is
    all that the server knows of each client.
    """

    update: ClientUpdate
    client_emb: np.ndarray
    decay: float


@dataclass(frozen=True, eq=False)
class ObservedRound:
    """The server's view of a round, and beside it the truth.

    `others` (K, D_emb): the embeddings of clients that did not take part.
    """

    broadcast: Broadcast
    messages: tuple[Message, ...]
    others: np.ndarray


def observe_rounds(
    worker: ClientWorker, state: ServerState, num_rounds: int
) -> list[ObservedRound]:
    """Return so many rounds that could come next, each simulated from the same finished state."""
    return [_observe(worker, state, state.round_idx + i) for i in range(num_rounds)]


def _observe(worker: ClientWorker, state: ServerState, round_idx: int) -> ObservedRound:
    config = worker.setup.config
    federation, done = config.federation, state.round_idx
    cohort = choose_cohort(federation.num_clients, federation.cohort_size, config.seed, round_idx)
    plan = _plan(worker, state, round_idx)
    messages = [
        message
        for group in config.resolved_client.groups(cohort)
        for message in _messages(worker, group, state.broadcast, plan, done)
    ]
    if config.federation.secure_aggregation:
        messages = _summed(worker, messages, state.broadcast, plan)
    outside = [c for c in range(federation.num_clients) if c not in set(cohort)][:MAX_OTHERS]
    others = [_embedding(worker, client_id, done) for client_id in outside]
    d_emb = config.model.d_emb
    return ObservedRound(
        state.broadcast, tuple(messages), np.stack(others) if others else np.zeros((0, d_emb))
    )


def _summed(
    worker: ClientWorker, messages: Sequence[Message], broadcast: Broadcast, plan: RoundPlan
) -> list[Message]:
    """Return the messages with the cohort's mean update in the place of each client's own.

    In a private round it is that of clipped changes, without noise: the server has drawn it.
    """
    settings = worker.receiver.settings
    weights = [settings.known_examples(m.update.client_id, plan) for m in messages]
    num_examples = sum(weights)
    form = settings.update_format(replace(plan, num_examples=num_examples), broadcast)
    total = np.zeros(form.size, dtype=np.uint64)
    for message, weight in zip(messages, weights, strict=True):
        numbers = form.encode(message.update, weight)
        if isinstance(numbers, UpdateFault):
            raise AggregationError(
                f"expected an update that can be summed, got {numbers} from client "
                f"{message.update.client_id}: audit a run that has not diverged"
            )
        total += numbers
    mean = form.decode(total, num_examples)
    decay = float(np.average([message.decay for message in messages], weights=weights))
    own = [replace(m.update, weights=mean.weights, moments=mean.moments) for m in messages]
    return [replace(m, update=u, decay=decay) for m, u in zip(messages, own, strict=True)]


def _plan(worker: ClientWorker, state: ServerState, round_idx: int) -> RoundPlan:
    """Return the plan of a further round, at the learning rate of the middle of the run.

    A cosine schedule ends at rates whose changes float32 can hardly hold.
    """
    config, federation = worker.setup.config, worker.setup.config.federation
    scale = config.client.lr_scale(federation.num_rounds // 2, federation.num_rounds)
    guarantee = promise_to_clients(config)
    shares_local = federation.num_rounds <= config.method.num_shared_rounds(federation.num_rounds)
    return RoundPlan(
        round_idx,
        scale,
        shares_local,
        tau=federation.tau,
        local_epochs=federation.local_epochs,
        private=None if guarantee is None else guarantee.round(clip_norm_of(guarantee, state)),
    )


def _messages(
    worker: ClientWorker,
    client_ids: Sequence[int],
    broadcast: Broadcast,
    plan: RoundPlan,
    num_rounds_done: int,
) -> list[Message]:
    clients = [worker.client_data(client_id) for client_id in client_ids]
    states = [worker.private_state(client_id, num_rounds_done) for client_id in client_ids]
    finished = worker.trainer.train(clients, states, broadcast, plan)
    settings, found = worker.setup.config.client, []
    for sent, state in finished:
        assert state.client_emb is not None  # methods without one are not audited here
        update = decompress(sent, broadcast.weights, settings)
        decay = BETAS[0] ** update.num_steps
        found.append(Message(update, state.client_emb.double().numpy(), decay))
    return found


def _embedding(worker: ClientWorker, client_id: int, num_rounds_done: int) -> np.ndarray:
    emb = worker.private_state(client_id, num_rounds_done).client_emb
    assert emb is not None
    return emb.double().numpy()
