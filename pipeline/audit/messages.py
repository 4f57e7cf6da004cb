"""Clients' embeddings, computed from what the server of a round sees.

The server is honest but curious: it follows the protocol, knows the network and what it has handed
out, and computes. V: width of the conditioning vector, or of all maps of the entrance into a
pre-trained network; D_emb: numbers of an embedding; R: rows of gradients; T: timesteps.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.audit.rounds import Message, ObservedRound
from spire_core.federated.messages import Broadcast, ClientUpdate
from spire_core.methods import EMB_PROJ, MODULATION
from spire_core.network.flat_model import FlatModel
from spire_core.network.unet import UNet, timestep_features
from spire_core.privacy.leak import (
    abs_cos,
    chance_cos,
    gradients_in_moment,
    span_shares,
    top_direction,
)

MOMENTS, CHANGE, SEARCH = "moments", "change", "search"
ATTACKS = (MOMENTS, CHANGE, SEARCH)
NUM_TIMES = 48  # timesteps at which the time conditioning is looked at
NUM_STEPS, RATE = 80, 0.05  # of the search's Adam, from each start
UNCONDITIONAL = 0.3  # weight of the vectors without e: some examples are shown without it
RIDGE = 0.01  # of the largest singular value: directions below it count as outside of the span


@dataclass(frozen=True)
class ClientLeak:
    """The largest |cos| of a client's embeddings and the direction that each attack finds."""

    client_id: int
    cos: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class MessageLeak:
    """What the messages of some rounds give away.

    `best`: the attack with the highest median |cos|; `chance`: the largest |cos| between two
    different clients' embeddings; `identified`: the share of clients whose recovered direction is
    nearer to an embedding of their own than to any other. `span_members` and `span_others`: the
    mean share of an embedding's length in the span of the sum of a cohort's updates.
    """

    clients: tuple[ClientLeak, ...]
    best: str
    cos: float
    chance: float
    identified: float
    span_members: float
    span_others: float
    cohort_size: int
    d_emb: int


class CuriousServer:
    """Computes embeddings from updates to one broadcast."""

    def __init__(self, model: FlatModel, broadcast: Broadcast, max_t: int) -> None:
        """Take the network, whose weights are overwritten with the broadcast's."""
        self.layout, self.net, self.broadcast = model.layout, model.net, broadcast
        model.load(torch.tensor(broadcast.weights, device=model.weights.device))
        self.d_emb = model.net.config.d_emb
        if isinstance(self.net, UNet):
            assert self.net.emb_proj is not None
            self.weight = self.net.emb_proj.weight.detach().double().cpu()  # W (V, D_emb)
            t = torch.linspace(0, max_t - 1, NUM_TIMES, device=model.weights.device).long()
            with torch.no_grad():  # the time conditioning a(t) (T, V) before its silu
                time = self.net.time_mlp(timestep_features(t, self.net.config.width))
            self.time = time.double().cpu()

    def directions(self, message: Message) -> dict[str, np.ndarray | None]:
        """Return the direction (D_emb,) that each attack finds in one client's update."""
        change, gradients = self._change(message.update), self._gradients(message)
        moments = None if gradients is None else top_direction(self._entrance_of(gradients))
        start, searched = top_direction(self._entrance_of(change)), None
        # A pre-trained network has no layers that read the conditioning vector alone.
        if isinstance(self.net, UNet) and start is not None:
            rows = None if gradients is None else self._conditioned(gradients)
            if rows is None or not rows.any():  # moments that are not sent
                rows = self._conditioned(change)
            searched = search_embedding(rows, self.time, self.weight, start)
        return {MOMENTS: moments, CHANGE: start, SEARCH: searched}

    def summed(self, messages: Sequence[Message]) -> np.ndarray:
        """Return the cohort's mean gradient, or change, of the embedding's entrance (V, D_emb).

        It is all that a server sees of the entrance under secure aggregation.
        """
        weights = np.array([m.update.num_examples for m in messages], np.float64)
        seen = []
        for message in messages:
            gradients = self._gradients(message)
            at_entrance = None if gradients is None else self._entrance_of(gradients)
            if at_entrance is None or not at_entrance.any():
                at_entrance = self._entrance_of(self._change(message.update))
            seen.append(at_entrance)
        return np.average(seen, axis=0, weights=weights)

    def _change(self, update: ClientUpdate) -> np.ndarray:
        before = self.broadcast.weights[: update.weights.size].astype(np.float64)
        return update.weights.astype(np.float64) - before

    def _gradients(self, message: Message) -> np.ndarray | None:
        if message.update.moments is None:
            return None
        after, averaged = message.update.moments.exp_avg, self.broadcast.moments
        before = np.zeros_like(after) if averaged is None else averaged.exp_avg[: after.size]
        return gradients_in_moment(after, before, message.decay)

    def _entrance_of(self, vector: np.ndarray) -> np.ndarray:
        return vector[self.layout.parts[EMB_PROJ]].reshape(-1, self.d_emb)

    def _conditioned(self, vector: np.ndarray) -> np.ndarray:
        """Return the stretches (R, V) of the layers that read the conditioning vector."""
        at, width = self.layout.parts[MODULATION], len(self.weight)
        return np.concatenate(
            [
                vector[start : start + shape.numel()].reshape(tuple(shape))
                for _, start, shape in self.layout.names
                if at.start <= start < at.stop and shape[1:] == (width,)
            ]
        )


def search_embedding(
    rows: np.ndarray, time: Tensor, weight: Tensor, direction: np.ndarray
) -> np.ndarray | None:
    """Return the embedding (D_emb,) whose conditioning vectors explain gradients (R, V) best.

    The gradient of a layer that reads h = silu(a(t) + W e) is a sum of outer products with h at the
    timesteps of the batches. Its row space therefore lies in the span of h over all t, which is a
    function of e alone: the server knows a and W. Adam starts from a direction (D_emb,) with either
    sign. `time` (T, V) float64 is a(t), `weight` (V, D_emb) float64 is W. None for rows of zeros.
    """
    if not rows.any():
        return None
    values, vectors = torch.linalg.svd(torch.from_numpy(rows).double(), full_matrices=False)[1:]
    shares = values.square() / values.square().sum()
    start = torch.from_numpy(direction * len(direction) ** 0.5)  # as long as one from N(0, 1)
    best, least = None, math.inf
    for sign in (1.0, -1.0):
        emb, left = (sign * start).requires_grad_(), math.inf
        optimizer = torch.optim.Adam([emb], lr=RATE)
        for _ in range(NUM_STEPS):
            optimizer.zero_grad()
            loss = _unexplained(emb, vectors, shares, time, weight)
            loss.backward()
            optimizer.step()
            left = loss.item()
        if left < least:
            best, least = emb.detach().numpy(), left
    return best


def _unexplained(
    emb: Tensor, vectors: Tensor, shares: Tensor, time: Tensor, weight: Tensor
) -> Tensor:
    """Return the share of the gradients' squares outside the span of an embedding's h.

    `vectors` (min(R, V), V) are right singular vectors of the gradients, `shares` their weights.
    """
    basis = torch.cat([F.silu(time + weight @ emb), UNCONDITIONAL * F.silu(time)])  # (2T, V)
    gram = basis @ basis.T
    ridge = RIDGE**2 * torch.linalg.matrix_norm(gram.detach(), 2)
    inside = basis @ vectors.T  # (2T, n)
    solved = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), inside)
    return 1 - (shares * (inside * solved).sum(dim=0)).sum()


def attack_messages(model: FlatModel, rounds: Sequence[ObservedRound], max_t: int) -> MessageLeak:
    """Return what the messages of these rounds give away; the model's weights are overwritten."""
    found, chances, members, others = [], [], [], []
    for one in rounds:
        server = CuriousServer(model, one.broadcast, max_t)
        embs = np.stack([message.client_embs for message in one.messages])  # (clients, M, D_emb)
        everybody = np.concatenate([embs, one.others])
        looked_at = one.messages[:1] if one.is_summed else one.messages  # a sum is one for all
        near = [_nearness(server.directions(message), everybody) for message in looked_at]
        for row, message in enumerate(one.messages):
            found.append((message.update.client_id, row, near[0 if one.is_summed else row]))
        chances.append(chance_cos(everybody))
        total, flat = server.summed(one.messages), embs.reshape(-1, embs.shape[-1])
        members.append(span_shares(total, len(flat), flat))
        others.append(span_shares(total, len(flat), one.others.reshape(-1, embs.shape[-1])))
    clients = tuple(
        ClientLeak(client_id, dict(zip(ATTACKS, cos[:, row].tolist(), strict=True)))
        for client_id, row, cos in found
    )
    medians = np.median([cos[:, row] for _, row, cos in found], axis=0)
    best = int(medians.argmax())
    own = [cos[best, row] >= cos[best].max() > 0 for _, row, cos in found]
    return MessageLeak(
        clients=clients,
        best=ATTACKS[best],
        cos=float(medians[best]),
        chance=max(chances),
        identified=float(np.mean(own)),
        span_members=float(np.concatenate(members).mean()),
        span_others=float(np.concatenate(others).mean()) if len(rounds[0].others) else math.nan,
        cohort_size=len(rounds[0].messages),
        d_emb=rounds[0].messages[0].client_embs.shape[-1],
    )


def _nearness(directions: Mapping[str, np.ndarray | None], embs: np.ndarray) -> np.ndarray:
    """Return the largest |cos| of each attack's direction and each client's embeddings (A, K)."""
    return np.array(
        [[max(abs_cos(d, emb) for emb in own) for own in embs] for d in directions.values()]
    )
