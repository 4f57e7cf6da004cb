"""The network of a pre-trained model, loaded by diffusers, and the prompt that it is shown.

Shapes: L tokens of a prompt, D numbers of a token.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from spire_core.errors import ConfigError, first_line
from spire_core.pretrained.folder import OWN_UNET, PROMPT, BackboneFolder, check_room
from spire_core.pretrained.quiet import unwarned


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
    except MemoryError:
        raise
    except Exception as error:  # diffusers reads settings unchecked, and fails in many ways
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
            "timestep_post_act: choose another model.backbone"
        )
    size = config.sample_size
    sides = size if isinstance(size, list | tuple) else [size]
    if not (size is None or all(isinstance(side, int) for side in sides)):
        raise ConfigError(
            f"expected sample_size as a number of pixels in {folder.network}, got {size!r:.80}: "
            "save the model again"
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
