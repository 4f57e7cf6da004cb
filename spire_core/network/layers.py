"""Layers of the U-Net that compute the numbers of their textbook form faster."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def modulated_norm(x: Tensor, num_groups: int, gain: Tensor, offset: Tensor, eps: float) -> Tensor:
    """Return group_norm(x) * gain + offset of x (B, C, H, W); gain and offset are (B, C).

    The batch is folded into the channels, so that per-image gain and offset become the affine
    weights of one `group_norm` call. The fused kernel then also computes their gradients.
    """
    groups = x.shape[:-3].numel() * num_groups
    whole = x.flatten(0, -3)[None]  # (1, B*C, H, W)
    return F.group_norm(whole, groups, gain.flatten(), offset.flatten(), eps).view(x.shape)


class ModulatedGroupNorm(nn.GroupNorm):
    """A group normalisation with scale and shift per image (Dhariwal & Nichol 2021)."""

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:  # type: ignore[override]
        """Return norm(x) * (1 + scale) + shift of x (B, C, H, W); scale and shift are (B, C)."""
        gain = 1 + scale
        offset = shift + self.bias * gain
        return modulated_norm(x, self.num_groups, self.weight * gain, offset, self.eps)


def doubled_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the 3 x 3 convolution of x (B, K*C_in, H, W), every pixel of which is doubled.

    That is an upsampling to twice the side by nearest neighbours, followed by the convolution.
    `weight` (K, C_out, C_in, 3, 3) has one kernel for each of K groups of channels; `bias` is
    (K*C_out,). The nine pixels under a kernel are copies of at most four pixels of x. With the
    weights of equal pixels summed first, this is a transposed convolution with 4 products instead
    of 9.
    """
    weight = weight.flip(-1, -2).transpose(1, 2)
    wide = F.pad(weight, (0, 1)) + F.pad(weight, (1, 0))
    tall = F.pad(wide, (0, 0, 0, 1)) + F.pad(wide, (0, 0, 1, 0))  # (K, C_in, C_out, 4, 4)
    return F.conv_transpose2d(x, tall.flatten(0, 1), bias, 2, 1, groups=len(weight))


class DoublingConv2d(nn.Conv2d):
    """A 3 x 3 convolution at twice the side; see `doubled_conv`."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, C, 2H, 2W) of an input (B, C, H, W)."""
        assert self.bias is not None
        return doubled_conv(input, self.weight[None], self.bias)


NARROW = 128 * 128  # weights; above this many the slower gradient cancels the gain


class PointwiseConv2d(nn.Conv2d):
    """A 1 x 1 convolution, as a matrix product where that is faster (CPU, few channels)."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 1)

    def forward(self, input: Tensor) -> Tensor:
        """Return (B, C_out, H, W) of an input (B, C_in, H, W)."""
        if input.device.type != "cpu" or self.weight.numel() > NARROW:
            return super().forward(input)
        assert self.bias is not None
        weight = self.weight.flatten(1).expand(len(input), -1, -1)  # (B, C_out, C_in)
        out = torch.baddbmm(self.bias[:, None], weight, input.flatten(2))
        return out.unflatten(-1, input.shape[-2:])
