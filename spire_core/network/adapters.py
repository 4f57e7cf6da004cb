"""Adapters: a few numbers beside or inside a network, which a new client trains alone.

LoRA (Hu et al. 2022, sec. 4.1) adds a product of two thin matrices to the linear maps of attention;
DiffFit (Xie et al. 2023, sec. 3.2) scales the output of every residual branch. Both are hooks on
layers that are left as they are, so that a network's own parameters keep their names, and a new
adapter changes no output. Biases and normalisations need no layers of their own.

Shapes: B batch, L positions, H and W sides, n and m channels in and out, r the rank.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from spire_core.config.method import MethodConfig
from spire_core.errors import ConfigError
from spire_core.methods import LOCAL
from spire_core.network.parts import declare

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0", "attend.qkv", "attend.out")  # ends of names
BRANCHES = ("conv2", "to_out.0", "ff.net.2", "attend.out")  # last layers of residual branches


class LowRank(nn.Module):
    """The product U D of U (m, r), which starts at zero, and D (r, n), for one layer."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int) -> None:
        super().__init__()
        self.is_conv = isinstance(layer, nn.Conv2d)
        num_out, num_in = layer.weight.shape[:2]
        self.down = nn.Parameter(torch.empty(rank, num_in))
        self.up = nn.Parameter(torch.zeros(num_out, rank))
        nn.init.normal_(self.down, std=num_in**-0.5)

    def merge(self, layer: nn.Linear | nn.Conv2d) -> None:
        """Add the product to the layer's own weights."""
        layer.weight.add_((self.up @ self.down).view_as(layer.weight))

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """Return the layer's output for x, (B, L, m) or (B, m, H, W), plus U D x."""
        if self.is_conv:
            low = torch.einsum("rn,bnhw->brhw", self.down, x)
            return output + torch.einsum("mr,brhw->bmhw", self.up, low)
        return output + (x @ self.down.T) @ self.up.T


class Scale(nn.Module):
    """A factor for each channel of a layer's output; all start at 1."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.is_conv = isinstance(layer, nn.Conv2d)
        self.factor = nn.Parameter(torch.ones(layer.weight.shape[0]))

    def merge(self, layer: nn.Linear | nn.Conv2d) -> None:
        """Scale the layer's own weights and bias."""
        layer.weight.mul_(self.factor.view(-1, *[1] * (layer.weight.ndim - 1)))
        if layer.bias is not None:
            layer.bias.mul_(self.factor)

    def forward(self, x: Tensor, output: Tensor) -> Tensor:
        """Return the layer's output, (B, L, m) or (B, m, H, W), scaled."""
        return output * (self.factor[:, None, None] if self.is_conv else self.factor)


def _layers(net: nn.Module, ends: tuple[str, ...]) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d) and f".{name}".endswith(
            tuple(f".{end}" for end in ends)
        ):
            yield name, layer


def add_adapter(net: nn.Module, method: MethodConfig) -> None:
    """Add the layers of a method's adapter to a network, as its module `adapter`.

    `adapted` then lists the pairs of layer and adapter. They draw their first numbers from torch's
    stream. ConfigError if no layer can be adapted.
    """
    if not method.record.adds_layers:
        return
    is_lora = method.record.adapter == "lora"
    found = list(_layers(net, ATTENTION if is_lora else BRANCHES))
    if not found:
        raise ConfigError(
            f"expected a network with attention for method={method.name}, got one without: choose "
            "another method or model.attention"
        )
    own, pairs = nn.ModuleDict(), list[tuple[nn.Module, nn.Module]]()
    for name, layer in found:
        adapter = LowRank(layer, method.rank) if is_lora else Scale(layer)
        layer.register_forward_hook(lambda _, xs, output, own=adapter: own(xs[0], output))
        own[name.replace(".", "_")] = adapter
        pairs.append((layer, adapter))
    net.adapter, net.adapted = declare(LOCAL, own), tuple(pairs)  # type: ignore[assignment]


def merge_adapters(net: nn.Module) -> None:
    """Put a network's adapters into the weights of the layers that they adapt, and unhook them."""
    for layer, adapter in getattr(net, "adapted", ()):
        adapter.merge(layer)
        layer._forward_hooks.clear()
