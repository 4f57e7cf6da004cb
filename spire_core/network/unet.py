"""The U-Net: DDPM's network with scale/shift conditioning and an entrance for the client embedding.

Shapes: B batch, C image channels, H and W image sides, D_emb numbers of a client embedding, L words
of a caption, V width of the conditioning vector. The code counts dimensions from the end, so that
B may become (B, K) if the layers hold the weights of K clients (`grouped_layers`). Sources: Ho et
al. 2020 (appendix B); Dhariwal & Nichol 2021 (scale/shift GroupNorm).
"""

import functools
import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spire_core.config.model import ModelConfig, num_norm_groups
from spire_core.methods import EMB_PROJ, LOCAL, MODULATION
from spire_core.network.captions import caption_encoder
from spire_core.network.layers import DoublingConv2d, ModulatedGroupNorm, PointwiseConv2d
from spire_core.network.parts import declare


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def entrance(d_emb: int, width: int) -> nn.Linear:
    """Return a linear map (D_emb -> width) by which an embedding enters the network."""
    return declare(EMB_PROJ, nn.Linear(d_emb, width, bias=False))


def timestep_features(t: Tensor, dim: int) -> Tensor:
    """Return sinusoids (B, dim) of integer timesteps t (B,) (Vaswani 2017; Ho 2020)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, device=t.device) / half)
    angles = t.float()[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ResBlock(nn.Module):
    """Two convolutions; the conditioning vector scales and shifts the second normalisation."""

    def __init__(self, c_in: int, c_out: int, cond_dim: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(num_norm_groups(c_in), c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.cond = declare(MODULATION, nn.Linear(cond_dim, 2 * c_out))
        self.norm2 = ModulatedGroupNorm(num_norm_groups(c_out), c_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _zeroed(nn.Conv2d(c_out, c_out, 3, padding=1))
        self.skip = PointwiseConv2d(c_in, c_out) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))  # (B, c_out, H, W)
        scale, shift = self.cond(cond).chunk(2, dim=-1)
        h = self.norm2(h, scale, shift)
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class Attention(nn.Module):
    """Single-head self-attention over all positions, with a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(num_norm_groups(channels), channels)
        self.qkv = PointwiseConv2d(channels, 3 * channels)
        self.out = _zeroed(PointwiseConv2d(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.norm(x)).flatten(0, -4).flatten(-2)  # (B, 3c, H*W)
        # torch's fused attention needs a dimension of heads and contiguous memory.
        qkv = qkv.transpose(-1, -2).contiguous()[:, None]  # (B, 1, H*W, 3c)
        h = F.scaled_dot_product_attention(*qkv.chunk(3, dim=-1))  # (B, 1, H*W, c)
        return x + self.out(h.transpose(-1, -2).reshape(x.shape))


class Level(nn.Module):
    """One ResBlock, followed by attention if the level attends."""

    def __init__(self, c_in: int, c_out: int, config: ModelConfig, attends: bool) -> None:
        super().__init__()
        self.res = ResBlock(c_in, c_out, config.cond_dim, config.dropout)
        self.attend = Attention(c_out) if attends else nn.Identity()

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        return self.attend(self.res(x, cond))


class UNet(nn.Module):
    """Predict eps or v from a noised image, its timestep and, where there is one, an embedding.

    The embedding enters through `emb_proj`, a linear map without bias that belongs to the backbone:
    its image is added to the time conditioning, so a zero embedding (or a zero projection) is the
    unconditional network. A caption enters through `text`, if the model has text, and is added too.
    """

    def __init__(self, config: ModelConfig, image_channels: int, has_embedding: bool) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * m for m in config.multipliers]
        folded = image_channels * config.space_to_depth**2
        self.time_mlp = nn.Sequential(
            nn.Linear(config.width, config.cond_dim),
            nn.SiLU(),
            nn.Linear(config.cond_dim, config.cond_dim),
        )
        self.emb_proj = entrance(config.d_emb, config.cond_dim) if has_embedding else None
        self.conv_in = nn.Conv2d(folded, widths[0], 3, padding=1)
        channels = self._build_down(widths)
        self.middle = nn.ModuleList(
            [
                Level(widths[-1], widths[-1], config, bool(config.attention)),
                Level(widths[-1], widths[-1], config, False),
            ]
        )
        self._build_up(widths, channels)
        self.norm_out = nn.GroupNorm(num_norm_groups(widths[0]), widths[0])
        self.conv_out = _zeroed(nn.Conv2d(widths[0], folded, 3, padding=1))
        # Last, so that the other layers have the same first numbers without them.
        self.text = caption_encoder(config)

    @functools.cached_property
    def by_name(self) -> dict[str, nn.Parameter]:
        """All parameters by name; to be read when no layer is replaced any more."""
        return dict(self.named_parameters())

    @property
    def entrances(self) -> list[tuple[nn.Linear | nn.Conv2d, nn.Linear]]:
        """Pairs of a layer and a map: the map of an embedding is added to the layer's output.

        An export fixes the embedding. What the map adds is then a part of the layer's bias.
        """
        return [] if self.emb_proj is None else [(self.time_mlp[2], self.emb_proj)]  # type: ignore

    def _build_down(self, widths: list[int]) -> list[int]:
        """Build the descending half and return the channels of every skip connection."""
        self.down, self.downsample = nn.ModuleList(), nn.ModuleList()
        channels, c_in = [widths[0]], widths[0]
        for level, c_out in enumerate(widths):
            blocks = nn.ModuleList()
            for _ in range(self.config.num_blocks):
                blocks.append(Level(c_in, c_out, self.config, level in self.config.attention))
                channels.append(c_out)
                c_in = c_out
            self.down.append(blocks)
            if level < len(widths) - 1:
                self.downsample.append(nn.Conv2d(c_out, c_out, 3, stride=2, padding=1))
                channels.append(c_out)
        return channels

    def _build_up(self, widths: list[int], channels: list[int]) -> None:
        self.up, self.upsample = nn.ModuleList(), nn.ModuleList()
        c_in = widths[-1]
        for level, c_out in reversed(list(enumerate(widths))):
            blocks = nn.ModuleList()
            for _ in range(self.config.num_blocks + 1):
                attends = level in self.config.attention
                blocks.append(Level(c_in + channels.pop(), c_out, self.config, attends))
                c_in = c_out
            self.up.append(blocks)
            if level > 0:
                self.upsample.append(DoublingConv2d(c_out))

    def condition(
        self, t: Tensor, client_emb: Tensor | None, tokens: Tensor | None = None
    ) -> Tensor:
        """Return the conditioning vector (B, V) of timesteps t (B,) and embeddings (B, D_emb).

        `tokens` are captions, (B, L) words or (B, D) vectors; None is the null text.
        """
        cond = self.time_mlp(timestep_features(t, self.config.width))
        if client_emb is not None:
            assert self.emb_proj is not None  # of a method with embeddings
            cond = cond + self.emb_proj(client_emb)
        if self.text is not None:
            cond = cond + self.text(t.new_zeros(*t.shape, 0) if tokens is None else tokens)
        return F.silu(cond)

    def forward(
        self, xt: Tensor, t: Tensor, client_emb: Tensor | None = None, tokens: Tensor | None = None
    ) -> Tensor:
        """Return the prediction (B, C, H, W) for noised images xt (B, C, H, W) at steps t (B,)."""
        cond = self.condition(t, client_emb, tokens)
        fold = self.config.space_to_depth
        h = self.conv_in(F.pixel_unshuffle(xt, fold) if fold > 1 else xt)
        skips = [h]
        for level, blocks in enumerate(self.down):
            for block in blocks:  # type: ignore[union-attr]
                h = block(h, cond)
                skips.append(h)
            if level < len(self.downsample):
                h = self.downsample[level](h)
                skips.append(h)
        for block in self.middle:
            h = block(h, cond)
        for level, blocks in enumerate(self.up):
            for block in blocks:  # type: ignore[union-attr]
                h = block(torch.cat([h, skips.pop()], dim=-3), cond)
            if level < len(self.upsample):
                h = self.upsample[level](h)
        h = self.conv_out(F.silu(self.norm_out(h)))
        return F.pixel_shuffle(h, fold) if fold > 1 else h


class TimeSplit(UNet):
    """A shared U-Net for noisy images, and one of a client's own for those with less noise.

    Images at timesteps below `t0` are denoised by `own`, without an embedding, all others by the
    U-Net itself (CollaFuse, arXiv 2406.14429; PFDM, arXiv 2504.00952).
    """

    def __init__(
        self,
        config: ModelConfig,
        image_channels: int,
        has_embedding: bool,
        own_width: float,
        t0: int,
    ) -> None:
        super().__init__(config, image_channels, has_embedding)
        width = max(8, 8 * round(config.width * own_width / 8))
        self.own, self.t0 = UNet(replace(config, width=width), image_channels, False), t0
        for module in self.own.modules():  # also those that declare another part
            declare(LOCAL, module)

    def forward(
        self, xt: Tensor, t: Tensor, client_emb: Tensor | None = None, tokens: Tensor | None = None
    ) -> Tensor:
        """Return the prediction (B, C, H, W) of the U-Net that each image's timestep asks for."""
        is_own = t < self.t0
        if torch.is_inference_mode_enabled() and len(is_own.unique()) == 1:  # as images are drawn
            if is_own.any():
                return self.own(xt, t, None, tokens)
            return super().forward(xt, t, client_emb, tokens)
        shared = super().forward(xt, t, client_emb, tokens)
        own = self.own(xt, t, None, tokens)
        return torch.where(is_own[..., None, None, None], own, shared)
