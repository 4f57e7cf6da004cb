"""The classes of diffusers' networks, and where each of them reads its conditions.

Shapes: B batch, C image channels, H and W image sides, V width of the conditioning vector, L tokens
of a prompt, D numbers of a token.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from spire_core.errors import ConfigError
from spire_core.pretrained.folder import OWN_UNET

Call = Callable[[nn.Module, Tensor, Tensor, Tensor | None], Tensor]
Host = tuple[nn.Module, int]  # a layer whose output is moved, and its channels


@dataclass(frozen=True)
class NetworkClass:
    """One class of diffusers' networks.

    `call` predicts from xt (B, C, H, W), t (B,) and the prompt's tokens (B, L, D). `time` are the
    layers that return the conditioning vector (B, V), the same numbers in each. `blocks` are those
    that the entrance of every block moves; they return (B, V), or feature maps if `is_film`.
    `reads`: fragments of the names of layers that read the conditioning vector, `reads_blocks` of
    those that read what `blocks` return, where others do, `reads_prompt` of those that read the
    prompt's tokens. `ends`: the linear map in each layer of `time` that makes its output, to whose
    bias a constant can be added. `halved`: by which number the side of its input has to be
    divisible.
    """

    call: Call
    time: Callable[[Any], list[Host]]
    blocks: Callable[[Any], list[Host]]
    reads: tuple[str, ...]
    ends: Callable[[Any], list[nn.Linear]]
    is_film: bool = False
    reads_prompt: tuple[str, ...] = ()
    reads_blocks: tuple[str, ...] = ()
    halved: Callable[[Any], int] = lambda config: 1

    @property
    def has_prompt(self) -> bool:
        """Whether the network takes a prompt."""
        return bool(self.reads_prompt)


def _resnets(network: nn.Module) -> list[Host]:
    """Return the second normalisation of every residual block, whose output a block reads."""
    blocks = [m for m in network.modules() if type(m).__name__ == "ResnetBlock2D"]
    return [(block.norm2, block.norm2.num_channels) for block in blocks]  # type: ignore[union-attr]


def _unet_time(network: Any) -> list[Host]:
    return [(network.time_embedding, network.time_embedding.linear_2.out_features)]


def _dit_time(network: Any) -> list[Host]:
    return [(block.norm1.emb, network.inner_dim) for block in network.transformer_blocks]


def _pixart_time(network: Any) -> list[Host]:
    return [(network.adaln_single.emb, network.inner_dim)]


def _unet_ends(network: Any) -> list[nn.Linear]:
    return [network.time_embedding.linear_2]


def _dit_ends(network: Any) -> list[nn.Linear]:
    return [b.norm1.emb.timestep_embedder.linear_2 for b in network.transformer_blocks]


def _pixart_ends(network: Any) -> list[nn.Linear]:
    return [network.adaln_single.emb.timestep_embedder.linear_2]


def _call_unet(network: nn.Module, xt: Tensor, t: Tensor, prompt: Tensor | None) -> Tensor:
    return network(xt, t).sample


def _call_with_text(network: nn.Module, xt: Tensor, t: Tensor, prompt: Tensor | None) -> Tensor:
    return network(xt, timestep=t, encoder_hidden_states=prompt).sample


def _call_dit(network: Any, xt: Tensor, t: Tensor, prompt: Tensor | None) -> Tensor:
    null = torch.full_like(t, network.config.num_embeds_ada_norm)  # the class of dropped labels
    return network(xt, timestep=t, class_labels=null).sample


_PROMPT_READERS = (".attn2.to_k.", ".attn2.to_v.", ".add_k_proj.", ".add_v_proj.")
_UNET = NetworkClass(
    _call_unet,
    _unet_time,
    _resnets,
    (".time_emb_proj.",),
    _unet_ends,
    is_film=True,
    reads_blocks=(".conv2.",),
    halved=lambda config: 2 ** (len(config.block_out_channels) - 1),
)
NETWORKS = {
    "UNet2DModel": _UNET,
    "UNet2DConditionModel": replace(
        _UNET,
        call=_call_with_text,
        reads_prompt=("encoder_hid_proj.", *_PROMPT_READERS),
        halved=lambda config: 1,  # what it halves it enlarges to any side
    ),
    OWN_UNET: replace(
        _UNET,
        time=lambda network: _unet_time(network.unet),
        ends=lambda network: _unet_ends(network.unet),
        halved=lambda config: config.space_to_depth * 2 ** (len(config.multipliers) - 1),
    ),
    "DiTTransformer2DModel": NetworkClass(
        _call_dit, _dit_time, _dit_time, (".norm1.linear.", "proj_out_1."), _dit_ends
    ),
    "PixArtTransformer2DModel": NetworkClass(
        _call_with_text,
        _pixart_time,
        lambda _: [],
        ("adaln_single.linear.",),
        _pixart_ends,
        reads_prompt=("caption_projection.", *_PROMPT_READERS),
    ),
}


def prompt_width(network: Any) -> int:
    """Return D, the numbers of a token that the network takes; ConfigError if layers differ."""
    config = network.config
    names = ("caption_channels", "encoder_hid_dim")  # of maps to what its layers attend to
    mapped = next((w for name in names if (w := getattr(config, name, None))), None)
    width = mapped or config.cross_attention_dim
    widths = {width} if isinstance(width, int) else {*width}
    if len(widths) > 1:
        raise ConfigError(
            f"expected a network that attends to tokens of one width, got {sorted(widths)} as its "
            "cross_attention_dim: choose another model.backbone"
        )
    return int(widths.pop())
