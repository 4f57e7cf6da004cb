"""A client inside the U-Net's own numbers, under the names that diffusers gives them.

With its embedding fixed, what a client's entrances add is a constant, which is a part of a bias; an
adapter is a change of weights. Several embeddings are the classes of a network of classes: theirs
are added where the entrance is. The numbers that remain are those of a `SpireUNet`
(`spire_core.pretrained.spire_unet`). c: channels of a layer of attention.
"""

import re
from typing import Any

import torch
from torch import Tensor

from spire_core.methods import EMB_PROJ, LOCAL
from spire_core.network.adapters import merge_adapters
from spire_core.network.parts import declared_parts
from spire_core.network.unet import UNet

NAMES = (  # patterns of our names, and what diffusers says
    (r"^time_mlp\.0\.", "time_embedding.linear_1."),
    (r"^time_mlp\.2\.", "time_embedding.linear_2."),
    (r"^(down|up)\.(\d+)\.(\d+)\.res\.", r"\1_blocks.\2.resnets.\3."),
    (r"^(down|up)\.(\d+)\.(\d+)\.attend\.", r"\1_blocks.\2.attentions.\3."),
    (r"^(down|up)sample\.(\d+)\.", r"\1_blocks.\2.\1samplers.0.conv."),
    (r"^middle\.(\d+)\.res\.", r"mid_block.resnets.\1."),
    (r"^middle\.(\d+)\.attend\.", r"mid_block.attentions.\1."),
    (r"^norm_out\.", "conv_norm_out."),
    (r"\.cond\.", ".time_emb_proj."),
    (r"\.skip\.", ".conv_shortcut."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.out\.", r"\1.to_out.0."),
)


def settings_of(net: UNet, image_channels: int, image_size: int) -> dict[str, Any]:
    """Return the arguments of the `SpireUNet` that holds a U-Net."""
    config = net.config
    return {
        "sample_size": image_size,
        "in_channels": image_channels,
        "width": config.width,
        "multipliers": list(config.multipliers),
        "num_blocks": config.num_blocks,
        "attention": list(config.attention),
        "cond_dim": config.cond_dim,
        "space_to_depth": config.space_to_depth,
    }


@torch.no_grad()
def numbers_of(net: UNet, client_emb: Tensor | None) -> dict[str, Tensor]:
    """Return the numbers of a client by diffusers' names; the U-Net is changed.

    `client_emb` is its embedding (D_emb,), several (M, D_emb) as classes, or None without one. A
    network with text is that of no caption.
    """
    merge_adapters(net)
    named = dict[str, Tensor]()
    if client_emb is not None and client_emb.ndim == 2:
        assert net.emb_proj is not None
        named["class_embedding.weight"] = net.emb_proj(client_emb)
    elif client_emb is not None:
        for layer, entrance in net.entrances:
            assert layer.bias is not None
            layer.bias += entrance(client_emb)
    if net.text is not None:
        net.time_mlp[2].bias += net.text(torch.zeros(1, 0, dtype=torch.long))[0]
    parts = declared_parts(net)
    for name, number in net.named_parameters():
        if parts[name] not in (EMB_PROJ, LOCAL) and not name.startswith("text."):
            named |= _renamed(name, number.detach().clone())
    return named


def _renamed(name: str, number: Tensor) -> dict[str, Tensor]:
    """Return one of our tensors as one of theirs, or as the three maps of an attention."""
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    if ".attentions." in name and name.endswith(".weight") and number.ndim == 4:
        number = number.flatten(1)  # (3c, c) or (c, c); theirs are linear maps
    if ".qkv." not in name:
        return {name: number}
    parts = zip(("to_q", "to_k", "to_v"), number.chunk(3), strict=True)
    return {name.replace("qkv", part): own.clone() for part, own in parts}
