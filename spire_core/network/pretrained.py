"""A pre-trained network behind the U-Net's interface, with an entrance for the client embedding.

The embedding moves the outputs of a few layers by a linear map, through hooks: no layer of the
network is replaced, and with a zero map or a zero embedding all outputs are the original ones.
Shapes: B batch, C image channels, H and W image sides, D_emb numbers of an embedding, V width of
the conditioning vector, c channels of a block.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.errors import ConfigError
from spire_core.pretrained.folder import BackboneFolder, open_backbone
from spire_core.pretrained.latents import latent_shapes
from spire_core.pretrained.loading import load_network, load_prompt
from spire_core.pretrained.networks import NETWORKS, prompt_width
from spire_core.pretrained.trial import check_takes


class PretrainedNet(nn.Module):
    """Predict from a noised image, its timestep and, where there is one, an embedding.

    `network` is the folder's, `emb_proj` the linear maps of the entrance: one of d_emb numbers to
    the conditioning vector ("time") or to the prompt's last token ("tokens"), or one for each block
    ("blocks"). They start at zero. The network stays in evaluation mode, without dropout.
    """

    emb_proj: nn.Module | None
    prompt: Tensor | None

    def __init__(self, config: ModelConfig, method: MethodConfig, image_channels: int) -> None:
        super().__init__()
        assert config.backbone is not None
        self.config, self.folder = replace(config, dropout=0.0), open_backbone(config.backbone)
        self.kind = NETWORKS[self.folder.class_name]
        self.network = load_network(self.folder)
        prompt = None
        if self.kind.has_prompt:
            prompt = load_prompt(self.folder, prompt_width(self.network))
        self.register_buffer("prompt", prompt, persistent=False)
        self.latents = latent_shapes(self.folder)
        self._check_channels(image_channels)
        self._client_emb: Tensor | None = None
        self.entrance = method.entrance
        self.emb_proj = None
        if method.record.has_embedding:
            self.emb_proj = self._entrance(method.entrance)

    @functools.cached_property
    def by_name(self) -> dict[str, nn.Parameter]:
        """All parameters by name; to be read when no layer is replaced any more."""
        return dict(self.named_parameters())

    def reads_condition(self, name: str) -> bool:
        """Return whether a parameter belongs to a layer that reads what the entrance moves."""
        kind = self.kind
        readers = {"tokens": kind.reads_prompt, "blocks": kind.reads_blocks or kind.reads}
        return any(fragment in name for fragment in readers.get(self.entrance, kind.reads))

    def _check_channels(self, image_channels: int) -> None:
        found = self._settings.in_channels
        out = getattr(self._settings, "out_channels", None)
        if out not in (None, found, 2 * found):
            raise ConfigError(
                f"expected a network of as many channels out as in, or twice as many with a learnt "
                f"variance, in {self.folder.network}, got in_channels={found} and "
                f"out_channels={out}: choose another model.backbone"
            )
        if self.latents is not None and self.latents.channels != found:
            raise ConfigError(
                f"expected an autoencoder of {found} latent channels, which the network in "
                f"{self.folder.path} takes, got one of {self.latents.channels}: choose another "
                "model.backbone"
            )
        found = found if self.latents is None else self.latents.image_channels
        if found != image_channels:
            raise ConfigError(
                f"expected images of {found} channels, which the model in {self.folder.path} "
                f"takes, got {image_channels}: choose other data or another model.backbone"
            )

    @property
    def _settings(self) -> Any:
        return self.network.config

    def check_image_size(self, image_size: int) -> None:
        """Raise ConfigError for images of another side than those that the network was trained on.

        A network that names none takes any that it can halve, after its autoencoder if it has one.
        """
        factor = 1 if self.latents is None else self.latents.factor
        size = self._settings.sample_size
        sides = {size} if isinstance(size, int) else set(size or ())
        if sides and sides != {image_size / factor}:
            wanted = " x ".join(str(factor * side) for side in sorted(sides))
            raise ConfigError(
                f"expected images of side {wanted}, on which the model in {self.folder.path} was "
                f"trained, got {image_size}: set data.image_size={wanted}"
            )
        halved = factor * self.kind.halved(self._settings)
        if image_size % halved != 0:
            raise ConfigError(
                f"expected images whose side is divisible by {halved}, as the model in "
                f"{self.folder.path} halves it, got {image_size}: choose another data.image_size"
            )
        shape = (self._settings.in_channels, image_size // factor, image_size // factor)
        emb = torch.zeros(1, self.config.d_emb) if self.emb_proj is not None else None
        check_takes(self, shape, self.folder.network, torch.ones(1, dtype=torch.int64), emb)

    def _entrance(self, name: str) -> nn.Module:
        if name == "tokens":
            if not self.kind.has_prompt:
                raise _no_entrance(name, self.folder, "time or blocks")
            return self._map(prompt_width(self.network))
        if name == "time":
            hosts = self.kind.time(self.network)
            one = self._map(hosts[0][1])
            for host, _ in hosts:
                host.register_forward_hook(self._mover(one, is_film=False))
            return one
        hosts = self.kind.blocks(self.network)
        if not hosts:
            raise _no_entrance(name, self.folder, "time or tokens")
        maps = [self._map(width * (1 + self.kind.is_film)) for _, width in hosts]
        for (host, _), own in zip(hosts, maps, strict=True):
            host.register_forward_hook(self._mover(own, self.kind.is_film))
        return nn.ModuleList(maps)

    def _map(self, width: int) -> nn.Linear:
        linear = nn.Linear(self.config.d_emb, width, bias=False)
        nn.init.zeros_(linear.weight)
        return linear

    def _mover(self, own: nn.Linear, is_film: bool) -> Callable[..., Tensor | None]:
        """Return a hook that moves a layer's output (B, V), or scales and moves (B, c, H, W)."""

        def move(_: nn.Module, inputs: object, output: Tensor) -> Tensor | None:
            if self._client_emb is None:
                return None
            moved = own(self._client_emb)
            if not is_film:
                return output + moved
            scale, shift = moved[..., None, None].chunk(2, dim=1)
            return output * (1 + scale) + shift

        return move

    def _tokens(self, xt: Tensor, client_emb: Tensor | None) -> Tensor | None:
        """Return the prompt's tokens (B, L, D), the last one moved where that is the entrance."""
        if self.prompt is None:
            return None
        tokens = self.prompt.repeat(len(xt), 1, 1)
        if client_emb is None or self.entrance != "tokens":
            return tokens
        assert self.emb_proj is not None
        last = tokens[:, -1:] + self.emb_proj(client_emb)[:, None]
        return torch.cat([tokens[:, :-1], last], dim=1)

    def forward(
        self, xt: Tensor, t: Tensor, client_emb: Tensor | None = None, tokens: Tensor | None = None
    ) -> Tensor:
        """Return the prediction (B, C, H, W) for noised images xt (B, C, H, W) at steps t (B,)."""
        if client_emb is not None and self.emb_proj is None:
            raise ConfigError(
                "expected no client embedding, got one: this method's network has no entrance for "
                "it"
            )
        self._client_emb = client_emb
        try:
            output = self.kind.call(self.network, xt, t, self._tokens(xt, client_emb))
        finally:
            self._client_emb = None
        return output[:, : xt.shape[1]]  # the rest, if any, is a learnt variance


def _no_entrance(name: str, folder: BackboneFolder, advice: str) -> ConfigError:
    return ConfigError(
        f"expected an entrance that a {folder.class_name} has, got method.entrance={name}: choose "
        f"{advice}"
    )
