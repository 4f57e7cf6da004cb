"""A client inside the numbers of a pre-trained network: without embedding, entrance and adapter.

A constant embedding moves each output by a constant, which is a bias; an adapter is a change of
weights. The network that results is one of diffusers', and predicts the same up to rounding.
"""

import torch
from torch import Tensor, nn

from spire_core.network.adapters import merge_adapters
from spire_core.network.pretrained import PretrainedNet


@torch.no_grad()
def fold(net: PretrainedNet, client_emb: Tensor | None) -> tuple[nn.Module, Tensor | None]:
    """Return a client's network and its prompt (1, L, D), None without one.

    `client_emb` (D_emb,) is its embedding, None without one. The network is that of `net`, changed.
    """
    prompt = net.prompt
    if client_emb is not None and net.emb_proj is not None:
        prompt = _fold_embedding(net, client_emb)
    merge_adapters(net)
    for p in net.network.parameters():  # they may be views of one vector, which no file can hold
        p.data = p.data.clone()
    return net.network, prompt


def _fold_embedding(net: PretrainedNet, client_emb: Tensor) -> Tensor | None:
    """Add an embedding to the network; return the prompt, moved where that is the entrance."""
    maps = net.emb_proj
    if net.entrance == "tokens":
        assert net.prompt is not None
        assert maps is not None
        last = net.prompt[:, -1:] + maps(client_emb)
        return torch.cat([net.prompt[:, :-1], last], dim=1)
    ends = net.kind.ends(net.network)
    if isinstance(maps, nn.Linear):
        for end in ends:
            end.bias += maps(client_emb)
        return net.prompt
    assert isinstance(maps, nn.ModuleList)
    for i, ((host, _), own) in enumerate(zip(net.kind.blocks(net.network), maps, strict=True)):
        if not net.kind.is_film:
            ends[i].bias += own(client_emb)
            continue
        assert isinstance(host, nn.GroupNorm)
        scale, shift = own(client_emb).chunk(2)
        host.weight *= 1 + scale
        host.bias.copy_(host.bias * (1 + scale) + shift)
    return net.prompt
