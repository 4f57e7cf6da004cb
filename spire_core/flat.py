"""A network whose parameters are views of one flat vector, ordered by part.

One vector is what travels (one message), what is averaged (one sum) and what is optimised (one
fused Adam step per part). P: number of the network's parameters.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from spire_core.errors import ConfigError
from spire_core.methods import LOCAL, NETWORK_PARTS, MethodConfig
from spire_core.rng import derive_seed
from spire_core.unet import ModelConfig, UNet


@dataclass(frozen=True)
class Layout:
    """Where each part lies in the flat vector, and which parameter begins where."""

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


class FlatModel:
    """A U-Net over one flat weight vector `weights` (P,) with gradients in `grads` (P,).

    `leaves[part]` is an `nn.Parameter` over that part's stretch, for an optimizer to step. Writing
    into `weights` changes the network and nothing else does.
    """

    def __init__(
        self,
        model: ModelConfig,
        method: MethodConfig,
        image_channels: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.net = UNet(model, image_channels, method.record.has_embedding).to(device)
        self.method = method
        ordered = self._order()
        size = sum(p.numel() for _, _, p in ordered)
        self.weights = torch.zeros(size, device=device)
        self.grads = torch.zeros(size, device=device)
        self.layout = self._lay_out(ordered)
        self.leaves = {part: self._leaf(at) for part, at in self.layout.parts.items()}

    def _order(self) -> list[tuple[str, str, nn.Parameter]]:
        last_up = len(self.net.up) - 1
        named = [
            (self.method.part_of(name, last_up), name, p) for name, p in self.net.named_parameters()
        ]
        if self.method.record.has_local_layers and not any(part == LOCAL for part, _, _ in named):
            raise ConfigError(
                f"expected method.local_layers to name layers of the U-Net, got "
                f"{self.method.local_layers}: such as up.last, norm_out, conv_out"
            )
        return sorted(named, key=lambda item: NETWORK_PARTS.index(item[0]))

    def _lay_out(self, ordered: list[tuple[str, str, nn.Parameter]]) -> Layout:
        start, names, ends = 0, [], {}
        for part, name, p in ordered:
            stop = start + p.numel()
            p.data = self.weights[start:stop].view(p.shape)
            p.grad = self.grads[start:stop].view(p.shape)
            names.append((name, start, p.shape))
            ends[part], start = stop, stop
        parts, begin = {}, 0
        for part in NETWORK_PARTS:
            end = ends.get(part, begin)
            parts[part], begin = slice(begin, end), end
        return Layout(parts, tuple(names))

    def _leaf(self, at: slice) -> nn.Parameter:
        leaf = nn.Parameter(self.weights[at])
        leaf.grad = self.grads[at]
        return leaf

    def load(self, weights: Tensor) -> None:
        """Copy a flat vector, or its leading stretch, into the network."""
        self.weights[: weights.numel()].copy_(weights)

    def train_only(self, parts: Sequence[str]) -> None:
        """Compute gradients for these parts alone; the rest of the network is frozen."""
        ranges = [self.layout.parts[part] for part in parts if part in self.layout.parts]
        parameters = dict(self.net.named_parameters())
        for name, start, _ in self.layout.names:
            trained = any(at.start <= start < at.stop for at in ranges)
            parameters[name].requires_grad_(trained)

    def named_tensors(self, weights: Tensor) -> dict[str, Tensor]:
        """Return a flat vector (P,) as the network's named tensors (views), for files."""
        return {n: weights[s : s + shape.numel()].view(shape) for n, s, shape in self.layout.names}

    def flatten(self, tensors: dict[str, Tensor]) -> Tensor:
        """Return named tensors as a flat vector (P,); the inverse of `named_tensors`."""
        return torch.cat([tensors[name].reshape(-1) for name, _, _ in self.layout.names])


def initial_weights(
    model: ModelConfig, method: MethodConfig, image_channels: int, seed: int, *counters: int
) -> Tensor:
    """Return freshly drawn weights (P,) of a network: a function of the seed and counters alone.

    Methods that differ only in what they share start from the same numbers, layer by layer.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initial_weights", *counters))
        drawn = UNet(model, image_channels, has_embedding=False).state_dict()
        flat = FlatModel(model, method, image_channels)
        torch.manual_seed(derive_seed(seed, "initial_emb_proj", *counters))
        if flat.net.emb_proj is not None:
            drawn["emb_proj.weight"] = torch.empty_like(flat.net.emb_proj.weight)
            nn.init.normal_(drawn["emb_proj.weight"], std=model.d_emb**-0.5)
    return flat.flatten(drawn)


def tensors_hash(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors: names, shapes, types and bytes, in order of names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
