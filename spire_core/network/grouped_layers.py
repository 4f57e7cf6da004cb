"""The networks of several clients computed as one: K clients are channel groups of one network.

Each layer holds the weights of K clients and applies client k's weights to client k's images, by
grouped convolutions, batched matrix products and K times as many normalisation groups. The network
around the layers is the U-Net itself, with its layers replaced. A group takes fewer and larger
operations than K networks one after the other. The numbers agree up to the order of float sums.

Shapes: B batch, K clients, C channels of one client, H and W image sides, P parameters of a client.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.network.flat_model import FlatWeights, lay_out, new_network, views
from spire_core.network.layers import (
    DoublingConv2d,
    ModulatedGroupNorm,
    PointwiseConv2d,
    doubled_conv,
    modulated_norm,
)


class GroupedLayer(nn.Module):
    """A layer with the weights (K, ...) of K clients; fewer clients use the first of them."""

    def __init__(self, plain: nn.Module, num_clients: int) -> None:
        super().__init__()
        for name, p in plain.named_parameters():
            self.register_parameter(name, nn.Parameter(p.detach().expand(num_clients, *p.shape)))

    def of_clients(self, num_clients: int) -> list[Tensor]:
        """Return the weight and the bias, if any, of the first `num_clients` clients."""
        return [
            p if len(p) == num_clients else p[:num_clients]
            for p in self._parameters.values()
            if p is not None
        ]


class GroupedConv2d(GroupedLayer):
    """K convolutions as the channel groups of one, or as a batched matrix product.

    The product is faster where a CPU's grouped convolution is slow: for 1 x 1 kernels, and for
    output channels too few to fill a vector register. It computes each pixel's contribution to each
    of its neighbours, then sums the contributions (`fold`): the same sum in another order.
    """

    def __init__(self, plain: nn.Conv2d, num_clients: int) -> None:
        super().__init__(plain, num_clients)
        self.stride, self.padding, self.side = plain.stride, plain.padding, plain.kernel_size[0]
        keeps_size = self.stride == (1, 1) and self.padding == (self.side // 2, self.side // 2)
        self.is_product = keeps_size and (self.side == 1 or plain.out_channels < 8)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, K, C_out, H, W) of x (B, K, C_in, H, W)."""
        weight, bias = self.of_clients(x.shape[1])
        if self.is_product:
            return self._product(x, weight, bias)
        k = x.shape[1]
        weight, bias = weight.flatten(0, 1), bias.flatten()
        out = F.conv2d(x.flatten(1, 2), weight, bias, self.stride, self.padding, groups=k)
        return out.unflatten(1, (k, -1))

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return the same convolution for weight (K, C_out, C_in, h, w) and bias (K, C_out)."""
        shares = weight.flatten(3).flip(-1).transpose(2, 3).flatten(1, 2)  # (K, C_out*h*w, C_in)
        out = shares @ x.flatten(-2)  # (B, K, C_out*h*w, H*W)
        if self.side > 1:
            size = (x.shape[-2], x.shape[-1])
            out = F.fold(out.flatten(0, 1), size, self.side, padding=self.side // 2)
        return out.reshape(*x.shape[:2], -1, *x.shape[-2:]) + bias[..., None, None]


class GroupedLinear(GroupedLayer):
    """K linear maps as one batched matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, K, D_out) of x (B, K, D_in)."""
        weight, *bias = self.of_clients(x.shape[1])
        x, weight = x.transpose(0, 1), weight.transpose(1, 2)  # (K, B, D_in), (K, D_in, D_out)
        out = torch.baddbmm(bias[0][:, None], x, weight) if bias else torch.bmm(x, weight)
        return out.transpose(0, 1)


class GroupedGroupNorm(GroupedLayer):
    """K group normalisations as one over K times as many groups."""

    def __init__(self, plain: nn.GroupNorm, num_clients: int) -> None:
        super().__init__(plain, num_clients)
        self.num_groups, self.eps = plain.num_groups, plain.eps

    def forward(self, x: Tensor) -> Tensor:
        """Return x (B, K, C, H, W), normalised."""
        k = x.shape[1]
        weight, bias = (p.flatten() for p in self.of_clients(k))
        out = F.group_norm(x.flatten(1, 2), k * self.num_groups, weight, bias, self.eps)
        return out.unflatten(1, (k, -1))


class GroupedModulatedGroupNorm(GroupedGroupNorm):
    """K group normalisations with scale and shift per image, as one."""

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:  # type: ignore[override]
        """Return norm(x) * (1 + scale) + shift of x (B, K, C, H, W), scale and shift (B, K, C)."""
        weight, bias = self.of_clients(x.shape[1])
        gain = 1 + scale
        return modulated_norm(x, self.num_groups, weight * gain, shift + bias * gain, self.eps)


class GroupedDoublingConv2d(GroupedLayer):
    """K convolutions of doubled images (`doubled_conv`) as the channel groups of one."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, K, C, 2H, 2W) of x (B, K, C, H, W)."""
        weight, bias = self.of_clients(x.shape[1])
        return doubled_conv(x.flatten(1, 2), weight, bias.flatten()).unflatten(1, x.shape[1:3])


GROUPED = {
    nn.Conv2d: GroupedConv2d,
    PointwiseConv2d: GroupedConv2d,
    nn.Linear: GroupedLinear,
    nn.GroupNorm: GroupedGroupNorm,
    ModulatedGroupNorm: GroupedModulatedGroupNorm,
    DoublingConv2d: GroupedDoublingConv2d,
}


def group_layers(net: nn.Module, num_clients: int) -> None:
    """Replace every layer with weights by its grouped counterpart, recursively."""
    for name, child in net.named_children():
        if type(child) in GROUPED:
            setattr(net, name, GROUPED[type(child)](child, num_clients))
        else:
            group_layers(child, num_clients)


class FlatGroup:
    """K U-Nets as one network, over weights (K, P); `clients[k]` are client k's own numbers.

    The network takes (B, K, ...) where a U-Net takes (B, ...). K may be smaller than the group; the
    first K clients then take part.
    """

    def __init__(
        self,
        model: ModelConfig,
        method: MethodConfig,
        image_channels: int,
        num_clients: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.net = new_network(model, method, image_channels).to(device)
        self.layout = lay_out(self.net, method)
        group_layers(self.net, num_clients)
        self.weights, self.grads = torch.zeros(2, num_clients, self.layout.size, device=device)
        for name, view in views(self.layout, self.weights).items():
            self.net.get_parameter(name).data = view
        self._gradients = [
            (self.net.by_name[name], at) for name, at in views(self.layout, self.grads).items()
        ]
        self.clients = [
            FlatWeights(*numbers, self.layout, method)
            for numbers in zip(self.weights, self.grads, strict=True)
        ]

    def backward(self, loss: Tensor) -> None:
        """Write the gradients of a loss into `grads`; those of frozen parameters do not change.

        They are copied after the backward pass, because autograd accumulates into contiguous
        tensors only.
        """
        loss.backward()
        for p, at in self._gradients:
            if p.grad is not None:
                at.copy_(p.grad)
                p.grad = None
