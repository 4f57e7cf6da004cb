"""Rounds from the finished state of a run, as the server sees them. Nothing of them is stored.

K: clients that do not take part; M: embeddings of a client; D_emb: numbers of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.clients.worker import ClientWorker
from pipeline.federation.rounds import clip_norm_of, promise_to_clients
from spire_core.federated.messages import Broadcast, ClientUpdate, RoundPlan
from spire_core.federated.participation import choose_cohort
from spire_core.federated.server import ServerState
from spire_core.federated.sums import HiddenSum
from spire_core.methods import CLIENT_EMB
from spire_core.training.adam import BETAS
from spire_core.training.several import embs_of

MAX_OTHERS = 64  # clients outside the cohort whose embeddings are compared


@dataclass(frozen=True, eq=False)
class Message:
    """A client's update as the server knows it, and the embeddings (M, D_emb) behind it.

    `decay`: the part of the first moments that were handed out which is left in the update's.
    """

    update: ClientUpdate
    client_embs: np.ndarray
    decay: float


@dataclass(frozen=True, eq=False)
class ObservedRound:
    """The server's view of a round, and beside it the truth.

    `others` (K, M, D_emb): the embeddings of clients that did not take part. `is_summed`: each
    message has the cohort's mean update, which is all that the server knows of a secure sum.
    """

    broadcast: Broadcast
    messages: tuple[Message, ...]
    others: np.ndarray
    is_summed: bool


def observe_rounds(
    worker: ClientWorker, state: ServerState, num_rounds: int
) -> list[ObservedRound]:
    """Return so many rounds that could come next, each simulated from the same finished state."""
    return [_observe(worker, state, state.round_idx + i) for i in range(num_rounds)]


def _observe(worker: ClientWorker, state: ServerState, round_idx: int) -> ObservedRound:
    config, done = worker.setup.config, state.round_idx
    federation, is_summed = config.federation, config.federation.secure_aggregation
    cohort = choose_cohort(federation.num_clients, federation.cohort_size, config.seed, round_idx)
    plan = _plan(worker, state, round_idx)
    messages = []
    for group in config.resolved_client.groups(cohort):
        for update, after in worker.trained(group, done, state.broadcast, plan):
            embs = embs_of(after.parts[CLIENT_EMB]).double().numpy()
            messages.append(Message(update, embs, BETAS[0] ** update.num_steps))
    if is_summed:
        messages = _summed(worker, messages, state.broadcast, plan)
    outside = [c for c in range(federation.num_clients) if c not in set(cohort)][:MAX_OTHERS]
    embs = [embs_of(worker.private_state(c, done).parts[CLIENT_EMB]).tolist() for c in outside]
    others = np.array(embs).reshape(-1, *messages[0].client_embs.shape)
    return ObservedRound(state.broadcast, tuple(messages), others, is_summed)


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


def _summed(
    worker: ClientWorker, messages: Sequence[Message], broadcast: Broadcast, plan: RoundPlan
) -> list[Message]:
    """Return the messages with the cohort's mean update in the place of each client's own.

    In a private round it is that of clipped changes, without noise: the server has drawn it.
    """
    weights = [1 if plan.private else m.update.num_examples for m in messages]
    form = worker.settings.update_format(replace(plan, num_examples=sum(weights)), broadcast)
    total = HiddenSum(form.size)
    for message, weight in zip(messages, weights, strict=True):
        total.add(message.update.client_id, weight, form.encode(message.update))
    mean = form.decode(total)
    decay = float(np.average([message.decay for message in messages], weights=weights))
    own = [replace(m.update, weights=mean.weights, moments=mean.moments) for m in messages]
    return [replace(m, update=u, decay=decay) for m, u in zip(messages, own, strict=True)]
