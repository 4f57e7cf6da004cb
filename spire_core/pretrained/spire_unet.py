"""SPIRE's U-Net as a network of the library diffusers.

Exported folders hold a copy of this file, which imports torch and diffusers alone: diffusers runs
it there with `trust_remote_code=True`. SPIRE itself never runs a copy.

Shapes: B batch, C image channels, H and W image sides.
"""

import math

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DModel, UNet2DOutput
from torch import nn
from torch.nn import functional as F


def num_norm_groups(channels: int) -> int:
    """Return into how many groups SPIRE normalises so many channels."""
    groups = math.gcd(32, channels)
    while groups > 1 and channels < 3 * groups:
        groups //= 2
    return groups


class SpireUNet(ModelMixin, ConfigMixin):
    """A `UNet2DModel` that differs in two things: groups of normalisations, and folded pixels.

    Each normalisation has groups by its number of channels. Squares of `space_to_depth` pixels a
    side are folded into channels before the network, and unfolded after it. `width` times an entry
    of `multipliers`: the channels of one level. `attention`: the levels that attend, 0 being the
    finest.
    """

    @register_to_config
    def __init__(
        self,
        sample_size: int,
        in_channels: int,
        width: int,
        multipliers: list[int],
        num_blocks: int,
        attention: list[int],
        cond_dim: int,
        space_to_depth: int,
        num_class_embeds: int | None = None,
    ) -> None:
        super().__init__()
        levels = range(len(multipliers))
        kinds = ["Attn" if level in attention else "" for level in levels]
        self.unet = UNet2DModel(
            sample_size=sample_size // space_to_depth,
            in_channels=in_channels * space_to_depth**2,
            out_channels=in_channels * space_to_depth**2,
            time_embedding_dim=cond_dim,
            flip_sin_to_cos=False,
            down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
            up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
            block_out_channels=tuple(width * m for m in multipliers),
            layers_per_block=num_blocks,
            attention_head_dim=None,  # one head
            norm_num_groups=1,
            attn_norm_num_groups=1,
            resnet_time_scale_shift="scale_shift",
            add_attention=bool(attention),
            num_class_embeds=num_class_embeds,
        )
        for norm in self.modules():
            if isinstance(norm, nn.GroupNorm):
                norm.num_groups = num_norm_groups(norm.num_channels)

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        class_labels: torch.Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple:
        """Return the prediction (B, C, H, W) for noised images (B, C, H, W) at a timestep.

        `class_labels` (B,) are the embeddings of a client that has several, by number.
        """
        fold = self.config["space_to_depth"]
        output = self.unet(F.pixel_unshuffle(sample, fold), timestep, class_labels).sample
        output = F.pixel_shuffle(output, fold)
        return UNet2DOutput(sample=output) if return_dict else (output,)


def plain(network: SpireUNet) -> UNet2DModel | None:
    """Return the `UNet2DModel` that computes the same by itself, None if there is none."""
    norms = [m for m in network.modules() if isinstance(m, nn.GroupNorm)]
    groups = {norm.num_groups for norm in norms}
    if network.config["space_to_depth"] > 1 or len(groups) > 1:
        return None
    (num_groups,) = groups
    inner = network.unet
    inner.register_to_config(norm_num_groups=num_groups, attn_norm_num_groups=num_groups)
    return inner
