"""A pre-trained network behind the U-Net's interface, with an entrance for the client embedding.

The embedding moves the outputs of a few layers by a linear map, through hooks: no layer of the
network is replaced, and with a zero map or a zero embedding all outputs are the original ones.
Shapes: B batch, C image channels, H and W image sides, D_emb numbers of an embedding, V outputs of
a linear map, c channels of a block, L tokens of a prompt, D numbers of a token.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.errors import ConfigError
from spire_core.methods import EMB_PROJ, MODULATION
from spire_core.network.adapters import merge_adapters
from spire_core.network.parts import declare
from spire_core.pretrained.folder import load_network, load_prompt, one_line, open_backbone
from spire_core.pretrained.latents import LatentCodec
from spire_core.pretrained.networks import NETWORKS


class PretrainedNet(nn.Module):
    """Predict from a noised image, its timestep and, where there is one, an embedding.

    `network` is the folder's, `emb_proj` the linear maps of the entrance: one of d_emb numbers to
    the conditioning vector ("time") or to the prompt's last token ("tokens"), or one for each block
    ("blocks"). They start at zero. `moved` are the layers with the map that moves each of them. The
    network stays in evaluation mode, without dropout.
    """

    network: Any  # an nn.Module with the attributes of diffusers' models
    emb_proj: nn.Module | None
    prompt: Tensor | None  # (1, L, D)

    def __init__(self, config: ModelConfig, method: MethodConfig) -> None:
        super().__init__()
        assert config.backbone is not None
        self.config, self.folder = replace(config, dropout=0.0), open_backbone(config.backbone)
        self.kind, self.network = NETWORKS[self.folder.class_name], load_network(self.folder)
        prompt = load_prompt(self.folder) if "tokens" in self.kind.entrances else None
        if config.checkpointing:
            self.network.enable_gradient_checkpointing()
        self.register_buffer("prompt", prompt, persistent=False)
        self._client_emb: Tensor | None = None
        self.entrance = method.entrance
        self.moved = list[tuple[nn.GroupNorm | nn.Linear, nn.Linear]]()
        self.emb_proj = self._add_entrance() if method.record.has_embedding else None

    @functools.cached_property
    def by_name(self) -> dict[str, nn.Parameter]:
        """All parameters by name; to be read when no layer is replaced any more."""
        return dict(self.named_parameters())

    def check_images(self, image_shape: tuple[int, int, int], codec: LatentCodec | None) -> None:
        """Raise ConfigError unless the network takes images (C, H, W), or their latents.

        It has to be of the side that it was trained on, if its settings name one.
        """
        shape = image_shape if codec is None else codec.shape_of(image_shape)
        config = self.network.config
        size = config.sample_size
        sides = {size} if isinstance(size, int) else {*(size or ())}
        if sides - {shape[-1]}:
            wanted = max(sides) * (1 if codec is None else codec.factor)
            raise ConfigError(
                f"expected images of side {wanted}, on which the model in {self.folder.path} was "
                f"trained, got {image_shape[-1]}: set data.image_size={wanted}"
            )
        # On the device meta tensors have shapes alone, so nothing is computed.
        named = (*self.named_parameters(), *self.named_buffers())
        numbers = {name: tensor.to("meta") for name, tensor in named}
        xt = torch.zeros(1, *shape, device="meta")
        t = torch.ones(1, dtype=torch.int64, device="meta")
        sizes = " x ".join(map(str, shape))
        expected = f"a network of images {sizes} that is shown their timestep and a prompt alone"
        with one_line(expected, self.folder.network), torch.no_grad():
            output = functional_call(self, numbers, (xt, t))
            if output.shape != xt.shape:
                raise ValueError(f"one that returns {' x '.join(map(str, output.shape[1:]))}")

    def _add_entrance(self) -> nn.Module:
        """Return the maps of the entrance, and hook them to the layers that they move."""
        entrances = self.kind.entrances
        if self.entrance not in entrances:
            raise ConfigError(
                f"expected an entrance that a {self.folder.class_name} has, got "
                f"method.entrance={self.entrance}: choose {' or '.join(entrances)}"
            )
        for name, module in self.network.named_modules():
            if f".{name}.".endswith(entrances[self.entrance].readers):
                declare(MODULATION, module)
        hosts = entrances[self.entrance].hosts(self.network)
        if self.entrance == "tokens":
            assert self.prompt is not None
            return self._map(self.prompt.shape[-1])
        if self.entrance == "time":
            maps = self._map(hosts[0].out_features)
            self.moved = [(host, maps) for host in hosts]
        else:
            owns = [self._map(_num_moved(host)) for host in hosts]
            maps, self.moved = nn.ModuleList(owns), list(zip(hosts, owns, strict=True))
        for host, own in self.moved:
            host.register_forward_hook(self._mover(own))
        return maps

    def _map(self, width: int) -> nn.Linear:
        linear = declare(EMB_PROJ, nn.Linear(self.config.d_emb, width, bias=False))
        nn.init.zeros_(linear.weight)
        return linear

    def _mover(self, own: nn.Linear) -> Callable[..., Tensor | None]:
        """Return a hook that moves a layer's output (B, V), or scales and moves (B, c, H, W)."""

        def move(host: nn.Module, inputs: object, output: Tensor) -> Tensor | None:
            if self._client_emb is None:
                return None
            moved = own(self._client_emb)
            if not isinstance(host, nn.GroupNorm):
                return output + moved
            scale, shift = moved[..., None, None].chunk(2, dim=1)
            return output * (1 + scale) + shift

        return move

    def tokens(self, num: int, client_emb: Tensor | None) -> Tensor | None:
        """Return the prompt's tokens (B, L, D), the last one moved where that is the entrance."""
        if self.prompt is None:
            return None
        tokens = self.prompt.repeat(num, 1, 1)
        if client_emb is None or self.entrance != "tokens":
            return tokens
        assert self.emb_proj is not None
        last = tokens[:, -1:] + self.emb_proj(client_emb)[:, None]
        return torch.cat([tokens[:, :-1], last], dim=1)

    def forward(
        self, xt: Tensor, t: Tensor, client_emb: Tensor | None = None, tokens: Tensor | None = None
    ) -> Tensor:
        """Return the prediction (B, C, H, W) for noised images xt (B, C, H, W) at steps t (B,)."""
        self._client_emb = client_emb
        try:
            output = self.kind.call(self.network, xt, t, self.tokens(len(xt), client_emb))
        finally:
            if not self.config.checkpointing:  # else the backward pass computes layers again
                self._client_emb = None
        return output[:, : xt.shape[1]]  # the rest, if any, is a learnt variance


def _num_moved(host: nn.GroupNorm | nn.Linear) -> int:
    """Return V of a layer's own map: a scale and a shift of each channel, or each output."""
    return 2 * host.num_channels if isinstance(host, nn.GroupNorm) else host.out_features


@torch.no_grad()
def fold(net: PretrainedNet, client_emb: Tensor | None) -> tuple[nn.Module, Tensor | None]:
    """Return a client's network and its prompt (1, L, D), None without one.

    A constant embedding (D_emb,) moves each output by a constant, which is a bias; an adapter is a
    change of weights. The network is that of `net`, changed, and predicts the same up to rounding.
    """
    prompt = net.tokens(1, None if client_emb is None else client_emb[None])
    for host, own in net.moved if client_emb is not None else ():
        moved = own(client_emb)
        if isinstance(host, nn.GroupNorm):
            scale, shift = moved.chunk(2)
            host.weight *= 1 + scale
            host.bias.copy_(host.bias * (1 + scale) + shift)
        else:
            host.bias += moved
    merge_adapters(net)
    for p in net.network.parameters():  # they may be views of one vector, which no file can hold
        p.data = p.data.clone()
    return net.network, prompt
