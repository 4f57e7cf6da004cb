"""Clients' embeddings, computed from what the server of a round sees.

The server is honest but curious: it follows the protocol, knows the network and what it has handed
out, and computes. V: width of the conditioning vector, or of all maps of the entrance into a
pre-trained network; D_emb: numbers of an embedding.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from pipeline.audit.embedding_search import search_embedding
from pipeline.audit.round_messages import Message, ObservedRound
from spire_core.federated.messages import Broadcast, ClientUpdate
from spire_core.methods import EMB_PROJ
from spire_core.network.flat_model import FlatModel
from spire_core.network.unet import UNet, timestep_features
from spire_core.privacy.leak import (
    abs_cos,
    chance_cos,
    direction_behind,
    gradients_in_moment,
    same_sign_mean,
    span_shares,
    top_direction,
)

MOMENTS, CHANGE, CONDITIONING, TOGETHER = "moments", "change", "conditioning", "together"
SEARCH = "search"
ATTACKS = (MOMENTS, CHANGE, CONDITIONING, TOGETHER, SEARCH)
NUM_TIMES = 48  # timesteps at which the time conditioning is looked at
MAX_FEATURES = 16  # of the time conditioning; its curve over t lies almost within these


@dataclass(frozen=True)
class ClientLeak:
    """The |cos| between a client's embedding and the direction that each attack finds."""

    client_id: int
    cos: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class MessageLeak:
    """What the messages of some rounds give away.

    `best`: the attack with the highest median |cos|; `chance`: the largest |cos| between two
    different clients' embeddings; `identified`: the share of clients whose recovered direction is
    nearer to their own embedding than to any other. `span_members` and `span_others`: the mean
    share of an embedding's length in the span of the sum of a cohort's updates.
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


class ConditionReader:
    """Computes embeddings from the layers of our U-Net that read the conditioning vector."""

    def __init__(self, model: FlatModel, max_t: int) -> None:
        """Take the network, which holds the broadcast's weights."""
        assert isinstance(model.net, UNet)
        assert model.net.emb_proj is not None
        self.layout, net = model.layout, model.net
        self.weight = model.net.emb_proj.weight.detach().double().cpu()  # W (V, D_emb)
        t = torch.linspace(0, max_t - 1, NUM_TIMES, device=model.weights.device).long()
        with torch.no_grad():  # the time conditioning (T, V) before its silu
            before = net.time_mlp(timestep_features(t, net.config.width))
        self.before = before.double().cpu()
        self.features, self.entrance = self._linearised()

    def _linearised(self) -> tuple[np.ndarray, np.ndarray]:
        """Return features of the time conditioning (K, V), and its derivative by e (V, D_emb)."""
        width, d_emb = self.weight.shape
        num_features = max(1, min(MAX_FEATURES, width - d_emb))
        features = torch.linalg.svd(F.silu(self.before), full_matrices=False)[2][:num_features]
        gate = self.before.sigmoid()
        slope = (gate * (1 + self.before * (1 - gate))).mean(dim=0)  # of silu
        return features.numpy(), (slope[:, None] * self.weight).numpy()

    def added(
        self,
        found: dict[str, np.ndarray | None],
        change: np.ndarray,
        gradients: np.ndarray | None,
    ) -> dict[str, np.ndarray | None]:
        """Return the directions (D_emb,) found so far, and those of the further attacks."""
        rows = self._conditioned(gradients) if gradients is not None else None
        if rows is None or not rows.any():  # moments that are not sent
            rows = self._conditioned(change)
        behind = direction_behind(rows, self.features, self.entrance)
        together = same_sign_mean([found[CHANGE], behind])
        directions = [d for d in (together, found[CHANGE]) if d is not None]
        length = self.weight.shape[1] ** 0.5  # of an embedding from N(0, 1)
        starts = [direction * length / np.linalg.norm(direction) for direction in directions]
        searched = search_embedding(rows, self.before, self.weight, starts)
        return found | {CONDITIONING: behind, TOGETHER: together, SEARCH: searched}

    def _conditioned(self, vector: np.ndarray) -> np.ndarray:
        """Return the stretches (R, V) of the layers that read the conditioning vector."""
        return np.concatenate(
            [
                vector[start : start + shape.numel()].reshape(tuple(shape))
                for name, start, shape in self.layout.names
                if name.endswith(".cond.weight")
            ]
        )


class CuriousServer:
    """Computes embeddings from updates to one broadcast."""

    def __init__(self, model: FlatModel, broadcast: Broadcast, max_t: int) -> None:
        """Take the network, whose weights are overwritten with the broadcast's."""
        self.model, self.broadcast = model, broadcast
        model.load(torch.tensor(broadcast.weights, device=model.weights.device))
        self.d_emb = model.net.config.d_emb
        # In a pre-trained network the attacks by other layers than the entrance are not tried.
        self.reader = ConditionReader(model, max_t) if isinstance(model.net, UNet) else None

    def directions(self, message: Message) -> dict[str, np.ndarray | None]:
        """Return the direction (D_emb,) that each attack finds in one client's update."""
        change, gradients = self._change(message.update), self._gradients(message)
        found = dict.fromkeys(ATTACKS) | {
            MOMENTS: None if gradients is None else top_direction(self._entrance_of(gradients)),
            CHANGE: top_direction(self._entrance_of(change)),
        }
        return found if self.reader is None else self.reader.added(found, change, gradients)

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
        return vector[self.model.layout.parts[EMB_PROJ]].reshape(-1, self.d_emb)


def attack_messages(model: FlatModel, rounds: Sequence[ObservedRound], max_t: int) -> MessageLeak:
    """Return what the messages of these rounds give away; the model's weights are overwritten."""
    found: list[tuple[Message, dict[str, np.ndarray | None], np.ndarray]] = []
    members, others = [], []
    for one in rounds:
        server = CuriousServer(model, one.broadcast, max_t)
        embs = np.stack([message.client_emb for message in one.messages])
        everybody = np.concatenate([embs, one.others])
        found += [(m, server.directions(m), everybody) for m in one.messages]
        total, rank = server.summed(one.messages), len(one.messages)
        members.append(span_shares(total, rank, embs))
        others.append(span_shares(total, rank, one.others))
    clients = tuple(
        ClientLeak(
            message.update.client_id,
            {name: abs_cos(direction, message.client_emb) for name, direction in by_attack.items()},
        )
        for message, by_attack, _ in found
    )
    medians = {name: float(np.median([c.cos[name] for c in clients])) for name in ATTACKS}
    best = max(ATTACKS, key=medians.__getitem__)
    own = [_is_nearest(m.client_emb, by[best], everybody) for m, by, everybody in found]
    return MessageLeak(
        clients=clients,
        best=best,
        cos=medians[best],
        chance=max(chance_cos(everybody) for _, _, everybody in found),
        identified=float(np.mean(own)),
        span_members=float(np.concatenate(members).mean()),
        span_others=float(np.concatenate(others).mean()) if len(rounds[0].others) else math.nan,
        cohort_size=len(rounds[0].messages),
        d_emb=rounds[0].messages[0].client_emb.size,
    )


def _is_nearest(own: np.ndarray, direction: np.ndarray | None, everybody: np.ndarray) -> bool:
    """Return whether a direction is nearer to one embedding than to all others of (K, D_emb)."""
    return abs_cos(direction, own) >= max(abs_cos(direction, emb) for emb in everybody) > 0
