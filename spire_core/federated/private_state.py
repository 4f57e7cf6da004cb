"""The part of a model that stays with its client."""

from collections.abc import Mapping

import torch
from torch import Tensor

from spire_core.config.client import ClientConfig
from spire_core.methods import CLIENT_EMB, NETWORK_PARTS
from spire_core.network.flat_model import FlatWeights
from spire_core.rng import torch_generator
from spire_core.training.adam import Moments

PrivateState = dict[str, Tensor]  # flat names, so that it is a safetensors file as it stands


def new_private_state(
    model: FlatWeights, config: ClientConfig, d_emb: int, seed: int, client_id: int
) -> PrivateState:
    """Return what a pre-training client holds at first: its embedding drawn from N(0, std^2)."""
    if not model.method.record.has_embedding:
        return {}
    generator = torch_generator(seed, "client_emb", client_id)
    return {CLIENT_EMB: torch.randn(d_emb, generator=generator) * config.emb_init_std}


def put_moments(state: PrivateState, part: str, moments: Moments) -> None:
    """Store a part's Adam moments under flat names."""
    state[f"{part}.exp_avg"] = moments.exp_avg
    state[f"{part}.exp_avg_sq"] = moments.exp_avg_sq
    state[f"{part}.step"] = moments.step


def get_moments(state: Mapping[str, Tensor], part: str, device: torch.device) -> Moments | None:
    """Return a part's stored Adam moments, or None if there are none."""
    if f"{part}.step" not in state:
        return None
    return Moments(
        state[f"{part}.exp_avg"].to(device),
        state[f"{part}.exp_avg_sq"].to(device),
        state[f"{part}.step"],
    )


def personalise(model: FlatWeights, weights: Tensor, state: Mapping[str, Tensor]) -> Tensor | None:
    """Load the backbone and a client's own parts into the model; return its embedding, if any."""
    model.load(weights)
    for part in NETWORK_PARTS:
        if part in state:
            model.weights[model.layout.parts[part]] = state[part].to(model.weights.device)
    emb = state.get(CLIENT_EMB)
    return None if emb is None else emb.to(model.weights.device)
