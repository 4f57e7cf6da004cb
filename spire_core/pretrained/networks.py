"""The classes of diffusers' networks, and where an embedding enters each of them.

Shapes: B batch, C image channels, H and W image sides, L tokens of a prompt, D numbers of a token.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

OWN_UNET = "SpireUNet"  # of exported runs
Call = Callable[[nn.Module, Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Entrance:
    """Where an embedding moves a network.

    `hosts` returns the layers whose outputs are moved: linear maps (the last ones of the timestep's
    vector), or normalisations. `readers`: fragments of the names of layers that read what is moved.
    """

    readers: tuple[str, ...]
    hosts: Callable[[Any], list[Any]] = lambda network: []


@dataclass(frozen=True)
class NetworkClass:
    """One class of networks: its entrances by the names of `method.entrance`, and its call.

    `call` predicts from xt (B, C, H, W), t (B,) and the prompt's tokens (B, L, D). The entrance
    "tokens", which moves the prompt's last token, is that of networks that attend to text.
    """

    call: Call
    entrances: Mapping[str, Entrance]


def _call(network: nn.Module, xt: Tensor, t: Tensor, prompt: Tensor | None) -> Tensor:
    return network(xt, t).sample


def _call_with_text(network: nn.Module, xt: Tensor, t: Tensor, prompt: Tensor | None) -> Tensor:
    return network(xt, timestep=t, encoder_hidden_states=prompt).sample


def _call_dit(network: Any, xt: Tensor, t: Tensor, prompt: Tensor | None) -> Tensor:
    null = torch.full_like(t, network.config.num_embeds_ada_norm)  # the class of dropped labels
    return network(xt, timestep=t, class_labels=null).sample


def _second_norms(network: nn.Module) -> list[nn.GroupNorm]:
    """Return the second normalisation of every residual block, whose output a block reads."""
    blocks: list[Any] = [m for m in network.modules() if type(m).__name__ == "ResnetBlock2D"]
    return [block.norm2 for block in blocks]


_UNET_TIME = Entrance((".time_emb_proj.",), lambda n: [n.time_embedding.linear_2])
_UNET_BLOCKS = Entrance((".conv2.",), _second_norms)
_OF_TOKENS = (".attn2.to_k.", ".attn2.to_v.", ".add_k_proj.", ".add_v_proj.")
_DIT = Entrance(
    (".norm1.linear.", "proj_out_1."),
    lambda n: [block.norm1.emb.timestep_embedder.linear_2 for block in n.transformer_blocks],
)
NETWORKS = {
    "UNet2DModel": NetworkClass(_call, {"time": _UNET_TIME, "blocks": _UNET_BLOCKS}),
    "UNet2DConditionModel": NetworkClass(
        _call_with_text,
        {
            "time": _UNET_TIME,
            "blocks": _UNET_BLOCKS,
            "tokens": Entrance(("encoder_hid_proj.", *_OF_TOKENS)),
        },
    ),
    OWN_UNET: NetworkClass(
        _call,
        {
            "time": Entrance(_UNET_TIME.readers, lambda n: [n.unet.time_embedding.linear_2]),
            "blocks": _UNET_BLOCKS,
        },
    ),
    "DiTTransformer2DModel": NetworkClass(_call_dit, {"time": _DIT, "blocks": _DIT}),
    "PixArtTransformer2DModel": NetworkClass(
        _call_with_text,
        {
            "time": Entrance(
                ("adaln_single.linear.",), lambda n: [n.adaln_single.emb.timestep_embedder.linear_2]
            ),
            "tokens": Entrance(("caption_projection.", *_OF_TOKENS)),
        },
    ),
}
