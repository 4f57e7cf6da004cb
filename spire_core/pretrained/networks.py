"""The network of a pre-trained model, loaded by diffusers, and where each class reads conditions.

Shapes: B batch, C image channels, H and W image sides, V width of the conditioning vector, L tokens
of a prompt, D numbers of a token.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from spire_core.errors import ConfigError, first_line
from spire_core.pretrained.folder import OWN_UNET, PROMPT, BackboneFolder, check_room
from spire_core.pretrained.quiet import unwarned

Call = Callable[[nn.Module, Tensor, Tensor, Tensor | None], Tensor]
Host = tuple[nn.Module, int]  # a layer whose output is moved, and its channels


@dataclass(frozen=True)
class NetworkClass:
    """One class of diffusers' networks.

    `call` predicts from xt (B, C, H, W), t (B,) and the prompt's tokens (B, L, D). `time` are the
    layers that return the conditioning vector (B, V), the same numbers in each. `blocks` are those
    that the entrance of every block moves; they return (B, V), or feature maps if `is_film`.
    `reads`: fragments of the names of layers that read the conditioning vector, `reads_blocks` of
    those that read what `blocks` return, where others do, `reads_prompt` of those that read the
    prompt's tokens. `ends`: the linear map in each layer of `time` that makes its output, to whose
    bias a constant can be added.
    """

    call: Call
    time: Callable[[Any], list[Host]]
    blocks: Callable[[Any], list[Host]]
    reads: tuple[str, ...]
    ends: Callable[[Any], list[nn.Linear]]
    is_film: bool = False
    reads_prompt: tuple[str, ...] = ()
    reads_blocks: tuple[str, ...] = ()

    @property
    def has_prompt(self) -> bool:
        """Whether the network takes a prompt."""
        return bool(self.reads_prompt)


def library() -> Any:
    """Return the package diffusers; ConfigError if it is not installed."""
    try:
        import diffusers  # lazy: a run without model.backbone needs none of it
    except ImportError as error:
        raise ConfigError(
            "expected the package diffusers for model.backbone, got none: "
            "pip install 'diffusers>=0.35,<1'"
        ) from error
    return diffusers


def load_network(folder: BackboneFolder) -> nn.Module:
    """Return the network of a folder in float32; ConfigError if its weights are not its own."""
    network = load_part(_class_of(folder), folder.network)
    _check_network(network, folder)
    return network


def load_part(model_class: Any, part: Path) -> nn.Module:
    """Return a model of diffusers from its own folder, in float32 and evaluation mode.

    ConfigError if its weights are not its own, or if there is too little memory for them.
    """
    check_room(part)
    settings = {"local_files_only": True, "use_safetensors": True, "low_cpu_mem_usage": False}
    settings |= {"torch_dtype": torch.float32, "output_loading_info": True}
    try:
        with unwarned():
            model, found = model_class.from_pretrained(part, **settings)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        reason = first_line(error)[:200]
        raise ConfigError(
            f"expected a {model_class.__name__} of diffusers in {part}, got a folder that it "
            f"cannot load ({reason}): save the model again"
        ) from error
    _check_tensors(found["missing_keys"], found["unexpected_keys"], model_class.__name__, part)
    for name, numbers in model.state_dict().items():
        if not numbers.isfinite().all():
            found = f"NaN or infinity in {name}"
            raise ConfigError(f"expected finite weights in {part}, got {found}: save them again")
    return model.eval()


def _check_tensors(
    missing: Collection[str], others: Collection[str], class_name: str, part: Path
) -> None:
    """Raise ConfigError unless a file has a model's tensors, of which diffusers only warns."""
    if missing:  # it would draw them at random
        raise ConfigError(
            f"expected all weights of a {class_name} in {part}, got none of {min(missing)} "
            f"({len(missing)} of its tensors are missing): save the model again"
        )
    if others:  # they were trained with it, and would be left out
        raise ConfigError(
            f"expected the weights of a {class_name} alone in {part}, got {min(others)} as well "
            f"({len(others)} tensors that it lacks): correct the class or the settings of the model"
        )


def _class_of(folder: BackboneFolder) -> Any:
    diffusers = library()
    if folder.class_name != OWN_UNET:
        return getattr(diffusers, folder.class_name)
    from spire_core.pretrained.spire_unet import SpireUNet  # lazy: needs diffusers

    return SpireUNet  # not the folder's copy of its code


def _check_network(network: Any, folder: BackboneFolder) -> None:
    config = network.config
    if folder.class_name.startswith("UNet") and (
        config.class_embed_type is not None or config.num_class_embeds is not None
    ):
        raise ConfigError(
            f"expected a U-Net without classes in {folder.network}, got one with them: it cannot "
            "draw without a class, so choose a model without, or a DiT"
        )
    if getattr(getattr(network, "time_embedding", None), "post_act", None) is not None:
        raise ConfigError(
            f"expected a plain time embedding in {folder.network}, got one with "
            "time_embedding_act_fn: choose another model.backbone"
        )
    if getattr(config, "encoder_hid_dim_type", None) not in (None, "text_proj"):
        raise ConfigError(
            f"expected a model whose conditions are timestep and prompt in {folder.network}, got "
            f"one of {config.encoder_hid_dim_type}: choose another model.backbone"
        )
    is_sized = getattr(network, "use_additional_conditions", False)
    if is_sized or getattr(config, "addition_embed_type", None) is not None:
        raise ConfigError(
            f"expected a model whose conditions are timestep and prompt in {folder.network}, got "
            "one with sizes or further texts as conditions: choose another model.backbone"
        )


def load_prompt(folder: BackboneFolder, width: int) -> Tensor:
    """Return the prompt's tokens (1, L, D), D = `width`; ConfigError if there are none that fit."""
    found = "none"
    if folder.prompt is not None:
        try:
            prompt = load_file(folder.prompt).get("encoder_hidden_states")
        except (OSError, SafetensorError):
            prompt = None
        found = "no such tensor" if prompt is None else f"shape {tuple(prompt.shape)}"
        if prompt is not None and not prompt.isfinite().all():
            found = "NaN or infinity"
        elif prompt is not None and prompt.ndim == 3 and prompt.shape[::2] == (1, width):
            return prompt.float()
    raise ConfigError(
        f"expected the text encoder's output of one prompt, encoder_hidden_states (1, L, {width}), "
        f"in {folder.path / PROMPT}, got {found}: write it with safetensors.torch.save_file"
    )


def _resnets(network: nn.Module) -> list[Host]:
    """Return the second normalisation of every residual block, whose output a block reads."""
    blocks = [m for m in network.modules() if type(m).__name__ == "ResnetBlock2D"]
    return [(block.norm2, block.norm2.num_channels) for block in blocks]  # type: ignore[union-attr]


def _unet_time(network: Any) -> list[Host]:
    return [(network.time_embedding, network.time_embedding.linear_2.out_features)]


def _dit_time(network: Any) -> list[Host]:
    return [(block.norm1.emb, network.inner_dim) for block in network.transformer_blocks]


def _pixart_time(network: Any) -> list[Host]:
    return [(network.adaln_single.emb, network.inner_dim)]


def _unet_ends(network: Any) -> list[nn.Linear]:
    return [network.time_embedding.linear_2]


def _dit_ends(network: Any) -> list[nn.Linear]:
    return [b.norm1.emb.timestep_embedder.linear_2 for b in network.transformer_blocks]


def _pixart_ends(network: Any) -> list[nn.Linear]:
    return [network.adaln_single.emb.timestep_embedder.linear_2]


def _call_unet(network: nn.Module, xt: Tensor, t: Tensor, prompt: Tensor | None) -> Tensor:
    return network(xt, t).sample


def _call_with_text(network: nn.Module, xt: Tensor, t: Tensor, prompt: Tensor | None) -> Tensor:
    return network(xt, timestep=t, encoder_hidden_states=prompt).sample


def _call_dit(network: Any, xt: Tensor, t: Tensor, prompt: Tensor | None) -> Tensor:
    null = torch.full_like(t, network.config.num_embeds_ada_norm)  # the class of dropped labels
    return network(xt, timestep=t, class_labels=null).sample


_PROMPT_READERS = (".attn2.to_k.", ".attn2.to_v.", ".add_k_proj.", ".add_v_proj.")
_UNET = NetworkClass(
    _call_unet,
    _unet_time,
    _resnets,
    (".time_emb_proj.",),
    _unet_ends,
    is_film=True,
    reads_blocks=(".conv2.",),
)
NETWORKS = {
    "UNet2DModel": _UNET,
    "UNet2DConditionModel": replace(
        _UNET, call=_call_with_text, reads_prompt=("encoder_hid_proj.", *_PROMPT_READERS)
    ),
    OWN_UNET: replace(
        _UNET,
        time=lambda network: _unet_time(network.unet),
        ends=lambda network: _unet_ends(network.unet),
    ),
    "DiTTransformer2DModel": NetworkClass(
        _call_dit, _dit_time, _dit_time, (".norm1.linear.", "proj_out_1."), _dit_ends
    ),
    "PixArtTransformer2DModel": NetworkClass(
        _call_with_text,
        _pixart_time,
        lambda _: [],
        ("adaln_single.linear.",),
        _pixart_ends,
        reads_prompt=("caption_projection.", *_PROMPT_READERS),
    ),
}


def prompt_width(network: Any) -> int:
    """Return D, the numbers of a token that the network takes; ConfigError if layers differ."""
    config = network.config
    names = ("caption_channels", "encoder_hid_dim")  # of maps to what its layers attend to
    mapped = next((w for name in names if (w := getattr(config, name, None))), None)
    width = mapped or config.cross_attention_dim
    widths = {width} if isinstance(width, int) else {*width}
    if len(widths) > 1:
        raise ConfigError(
            f"expected a network that attends to tokens of one width, got {sorted(widths)} as its "
            "cross_attention_dim: choose another model.backbone"
        )
    return int(widths.pop())
