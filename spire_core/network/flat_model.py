"""A network whose parameters are views of one flat vector, ordered by part.

One vector makes one message, one sum in the average, and one fused Adam step per part.
P: number of the network's parameters.
"""

import contextlib
import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spire_core.config.checks import require
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.methods import DENOISER, EMB_PROJ, LOCAL, NETWORK_PARTS
from spire_core.network.adapters import add_adapter
from spire_core.network.parts import declared_parts, declaring
from spire_core.network.pretrained import PretrainedNet
from spire_core.network.unet import TimeSplit, UNet
from spire_core.rng import derive_seed

Network = UNet | PretrainedNet  # or one of another package, with the same interface


@dataclass(frozen=True)
class Layout:
    """The slice of each part in the flat vector; each parameter's name, start and shape."""

    parts: dict[str, slice]
    names: tuple[tuple[str, int, torch.Size], ...]

    @property
    def size(self) -> int:
        return self.parts[LOCAL].stop

    @property
    def num_without_local(self) -> int:
        """Length of the leading stretch that is always shared."""
        return self.parts[LOCAL].start

    def part_size(self, part: str) -> int:
        return self.parts[part].stop - self.parts[part].start


class FlatWeights:
    """One network's numbers: `weights` (P,) and gradients in `grads` (P,).

    `leaves[part]` is an `nn.Parameter` over that part's stretch, for an optimizer to step. The
    network reads `weights`: to write into it is the only way to change the network.
    """

    def __init__(
        self, weights: Tensor, grads: Tensor, layout: Layout, method: MethodConfig
    ) -> None:
        self.weights, self.grads, self.layout, self.method = weights, grads, layout, method
        self.leaves = {part: self._leaf(at) for part, at in layout.parts.items()}

    def _leaf(self, at: slice) -> nn.Parameter:
        leaf = nn.Parameter(self.weights[at])
        leaf.grad = self.grads[at]
        return leaf

    def load(self, weights: Tensor) -> None:
        """Copy a flat vector, or its leading stretch, into the network."""
        self.weights[: weights.numel()].copy_(weights)


class FlatModel(FlatWeights):
    """A U-Net, or a pre-trained network, over one flat weight vector.

    The vector has no frozen number: those are the network's own, `num_frozen` of them.
    """

    def __init__(
        self,
        model: ModelConfig,
        method: MethodConfig,
        image_channels: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.net = new_network(model, method, image_channels).to(device).eval()
        layout = lay_out(self.net, method)
        trained = {name for name, _, _ in layout.names}
        frozen = [p for name, p in self.net.named_parameters() if name not in trained]
        self.num_frozen = sum(p.numel() for p in frozen)
        for p in frozen:
            p.requires_grad_(False)
        weights, grads = torch.zeros(2, layout.size, device=device)
        for name, view in views(layout, weights).items():
            self.net.get_parameter(name).data = view
        for name, view in views(layout, grads).items():
            self.net.get_parameter(name).grad = view
        super().__init__(weights, grads, layout, method)

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Switch the network to training mode, of which only dropout makes use, and back."""
        has_dropout = self.net.config.dropout > 0
        try:
            self.net.train(has_dropout)
            yield
        finally:
            self.net.train(False)

    def named_tensors(self, weights: Tensor) -> dict[str, Tensor]:
        """Return a flat vector (P,) as the network's named tensors (views), for files."""
        return views(self.layout, weights)

    def flatten(self, tensors: dict[str, Tensor]) -> Tensor:
        """Return named tensors as a flat vector (P,); the inverse of `named_tensors`."""
        return torch.cat([tensors[name].reshape(-1) for name, _, _ in self.layout.names])


def new_network(model: ModelConfig, method: MethodConfig, image_channels: int) -> Network:
    """Return the network of a configuration, with a method's entrance and adapter.

    A U-Net and a network of another package have random numbers, a pre-trained one its own.
    """
    net: Any
    own, sizes = method.record.network, (model, image_channels, method.record.has_embedding)
    if own is not None:
        net = own(*sizes)
        net.config = model
    elif model.backbone is None:
        is_split = method.record.adapter == DENOISER
        net = TimeSplit(*sizes, method.own_width, method.t0) if is_split else UNet(*sizes)
    else:
        net = PretrainedNet(model, method)
    add_adapter(net, method)
    if own is not None:
        net.by_name = dict(net.named_parameters())
    return net


def lay_out(net: Network, method: MethodConfig) -> Layout:
    """Return the layout of a network's flat vector: its trained parameters, sorted by part."""
    last_up, named = len(net.up) - 1 if isinstance(net, UNet) else 0, []
    declared = declared_parts(net)
    for name, p in net.named_parameters():
        part = method.part_of(name, p.ndim, declared[name], last_up)
        if part is not None:
            named.append((part, name, p))
    if method.record.names_layers:
        _check_local(method, last_up, [f"{name}." for name, _ in net.named_parameters()])
    start, names, ends = 0, [], {}
    for part, name, p in sorted(named, key=lambda item: NETWORK_PARTS.index(item[0])):
        names.append((name, start, p.shape))
        start += p.numel()
        ends[part] = start
    parts, begin = {}, 0
    for part in NETWORK_PARTS:
        end = ends.get(part, begin)
        parts[part], begin = slice(begin, end), end
    return Layout(parts, tuple(names))


def _check_local(method: MethodConfig, last_up: int, names: Sequence[str]) -> None:
    """Raise ConfigError for an entry that names no layer."""
    layers, prefixes = method.local_layers, method.local_prefixes(last_up)
    unknown = [
        layer
        for layer, prefix in zip(layers, prefixes, strict=True)
        if not any(name.startswith(prefix) for name in names)
    ]
    advice = "such as up.last, norm_out, conv_out"
    expected = "method.local_layers to name layers of the U-Net"
    require(bool(layers) and not unknown, expected, ", ".join(unknown) or "none", advice)


def views(layout: Layout, weights: Tensor) -> dict[str, Tensor]:
    """Return flat vectors (..., P) as a network's named tensors (..., *shape)."""
    stretches = [(name, slice(s, s + shape.numel()), shape) for name, s, shape in layout.names]
    return {name: weights[..., at].unflatten(-1, shape) for name, at, shape in stretches}


def train_only(net: Network, layout: Layout, parts: Collection[str]) -> None:
    """Require gradients for these parts alone; freeze the rest of the network."""
    ranges = [layout.parts[part] for part in parts if part in layout.parts]
    for name, start, _ in layout.names:
        net.by_name[name].requires_grad_(any(at.start <= start < at.stop for at in ranges))


def initial_weights(
    model: ModelConfig, method: MethodConfig, image_channels: int, seed: int, *counters: int
) -> Tensor:
    """Return initial weights (P,) of a network: a function of the seed and counters alone.

    With equal seed and counters all methods start from the same numbers, layer by layer. A
    pre-trained network starts from its own, with an entrance of zeros.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initial_weights", *counters))
        plain = dict[str, Tensor]()
        if model.backbone is None:
            plain = (method.record.network or UNet)(model, image_channels, False).state_dict()
        torch.manual_seed(derive_seed(seed, "initial_adapter", *counters))
        net = new_network(model, method, image_channels)
        drawn = {name: p.detach() for name, p in net.named_parameters()}
        drawn |= {k: p for k, p in plain.items() if k in drawn and p.shape == drawn[k].shape}
        torch.manual_seed(derive_seed(seed, "initial_emb_proj", *counters))
        if model.backbone is None:
            for entrance in declaring(net, EMB_PROJ):
                nn.init.normal_(entrance.weight, std=model.d_emb**-0.5)  # type: ignore
    names = [name for name, _, _ in lay_out(net, method).names]
    return torch.cat([drawn[name].reshape(-1) for name in names])


def tensors_hash(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors: names, shapes, types and bytes, in order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
