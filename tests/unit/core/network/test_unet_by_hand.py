"""The U-Net against the same network written out layer by layer."""

import torch
from torch import Tensor
from torch.nn import functional as F

from spire_core.config.model import ModelConfig, num_norm_groups
from spire_core.network.unet import UNet
from spire_core.rng import torch_generator

CONFIG = ModelConfig(
    d_emb=5, width=16, multipliers=(1, 2), num_blocks=2, attention=(1,), cond_dim=12
)


class WrittenOut:
    """Two levels of two blocks, the coarse one with attention, as CONFIG asks for."""

    def __init__(self, net: UNet) -> None:
        self.p = dict(net.named_parameters())

    def conv(self, name: str, h: Tensor, **more: int) -> Tensor:
        return F.conv2d(h, self.p[f"{name}.weight"], self.p[f"{name}.bias"], **more)

    def norm(self, name: str, h: Tensor) -> Tensor:
        weight = self.p[f"{name}.weight"]
        return F.group_norm(h, num_norm_groups(len(weight)), weight, self.p[f"{name}.bias"])

    def dense(self, name: str, h: Tensor) -> Tensor:
        return F.linear(h, self.p[f"{name}.weight"], self.p.get(f"{name}.bias"))

    def conditioning(self, t: Tensor, emb: Tensor) -> Tensor:
        frequencies = 10000.0 ** (-torch.arange(8) / 8)
        angles = t[:, None] * frequencies
        times = torch.cat([angles.sin(), angles.cos()], dim=1)
        times = self.dense("time_mlp.2", F.silu(self.dense("time_mlp.0", times)))
        return F.silu(times + self.dense("emb_proj", emb))

    def residual(self, name: str, h: Tensor, cond: Tensor) -> Tensor:
        inner = self.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", h)), padding=1)
        scale, shift = self.dense(f"{name}.cond", cond)[..., None, None].chunk(2, dim=1)
        inner = F.silu(self.norm(f"{name}.norm2", inner) * (1 + scale) + shift)
        inner = self.conv(f"{name}.conv2", inner, padding=1)
        return inner + (self.conv(f"{name}.skip", h) if f"{name}.skip.weight" in self.p else h)

    def attention(self, name: str, h: Tensor) -> Tensor:
        q, k, v = self.conv(f"{name}.qkv", self.norm(f"{name}.norm", h)).flatten(2).chunk(3, dim=1)
        weights = torch.softmax(q.mT @ k / q.shape[1] ** 0.5, dim=-1)  # (B, to, from)
        return h + self.conv(f"{name}.out", (v @ weights.mT).view_as(h))

    def block(self, name: str, h: Tensor, cond: Tensor) -> Tensor:
        h = self.residual(f"{name}.res", h, cond)
        has_attention = f"{name}.attend.qkv.weight" in self.p
        return self.attention(f"{name}.attend", h) if has_attention else h

    def __call__(self, x: Tensor, t: Tensor, emb: Tensor) -> Tensor:
        cond = self.conditioning(t, emb)
        h = self.conv("conv_in", F.pixel_unshuffle(x, 2), padding=1)
        skips = [h]
        for name in ("down.0.0", "down.0.1"):
            skips.append(h := self.block(name, h, cond))
        skips.append(h := self.conv("downsample.0", h, stride=2, padding=1))
        for name in ("down.1.0", "down.1.1"):
            skips.append(h := self.block(name, h, cond))
        for name in ("middle.0", "middle.1"):
            h = self.block(name, h, cond)
        for name in ("up.0.0", "up.0.1", "up.0.2"):
            h = self.block(name, torch.cat([h, skips.pop()], dim=1), cond)
        h = self.conv("upsample.0", F.interpolate(h, scale_factor=2.0), padding=1)
        for name in ("up.1.0", "up.1.1", "up.1.2"):
            h = self.block(name, torch.cat([h, skips.pop()], dim=1), cond)
        out = self.conv("conv_out", F.silu(self.norm("norm_out", h)), padding=1)
        return F.pixel_shuffle(out, 2)


def test_every_layer_is_where_it_belongs() -> None:
    net = UNet(CONFIG, 1, has_embedding=True).eval()
    generator = torch_generator(0, "written_out")
    for parameter in net.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    x = torch.randn(3, 1, 8, 8, generator=generator)
    t, emb = torch.tensor([0, 17, 900]), torch.randn(3, 5, generator=generator)
    with torch.no_grad():
        expected = WrittenOut(net)(x, t, emb)
        atol = 1e-4 * float(expected.std())
        torch.testing.assert_close(net(x, t, emb), expected, rtol=0.0, atol=atol)


def test_a_fresh_network_predicts_zero() -> None:
    net = UNet(CONFIG, 1, has_embedding=True)
    assert not net(torch.randn(2, 1, 8, 8), torch.tensor([1, 500]), torch.ones(2, 5)).any()
