"""Pipelines of diffusers with random weights, the smallest that `model.backbone` takes."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DiTTransformer2DModel,
    PixArtTransformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from safetensors.torch import save_file

UNET_SIZES = {  # what small U-Nets of diffusers have in common, for 8 x 8 numbers
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
}
DOWN, UP = ("DownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "UpBlock2D")
CROSS_DOWN, CROSS_UP = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
TOKENS = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 8, "norm_num_groups": 4}
NETWORKS: dict[str, tuple[Any, dict[str, Any]]] = {  # by the names of their classes
    "UNet2DModel": (
        UNet2DModel,
        {**UNET_SIZES, "attention_head_dim": 4, "down_block_types": DOWN, "up_block_types": UP},
    ),
    "UNet2DConditionModel": (
        UNet2DConditionModel,
        {
            **UNET_SIZES,
            "attention_head_dim": 4,
            "down_block_types": CROSS_DOWN,
            "up_block_types": CROSS_UP,
            "cross_attention_dim": 6,
        },
    ),
    "DiTTransformer2DModel": (DiTTransformer2DModel, {**TOKENS, "num_embeds_ada_norm": 10}),
    "PixArtTransformer2DModel": (
        PixArtTransformer2DModel,
        {**TOKENS, "cross_attention_dim": 16, "caption_channels": 6},
    ),
}
PROMPT = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(5))


def randomised(model: Any) -> Any:
    """Give a model random numbers in every layer, also in those that start at zero.

    It needs no gradients: with weights that do, torch's matrix products round otherwise.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for p in model.eval().parameters():
            p.data += 0.02 * torch.randn(p.shape)
    return model.requires_grad_(False)


def make(name: str, channels: int = 1, side: int = 8, **more: Any) -> Any:
    """Return a network for `channels` x `side` x `side` numbers; a transformer learns variances."""
    model_class, settings = NETWORKS[name]
    num_out = channels if name.startswith("UNet") else 2 * channels
    sizes = {"in_channels": channels, "out_channels": num_out, "sample_size": side}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomised(model_class(**(settings | sizes | more)))


def autoencoder(latent_channels: int = 3, channels: int = 1, scale: float = 0.6) -> AutoencoderKL:
    """Return one whose latents have half of the images' side."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(4, 8),
            latent_channels=latent_channels,
            norm_num_groups=2,
            scaling_factor=scale,
        )
        return randomised(vae)


def save(folder: Path, network: Any, scheduler: Any, **parts: Any) -> Path:
    """Write a pipeline's folder with the library's own writers; return the folder."""
    part = "unet" if type(network).__name__.startswith("UNet") else "transformer"
    models = {part: network, "scheduler": scheduler, **parts}
    for name, model in models.items():
        model.save_pretrained(folder / name)
    index = {name: ["diffusers", type(model).__name__] for name, model in models.items()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "Some", **index}))
    save_file({"encoder_hidden_states": PROMPT}, folder / "prompt.safetensors")
    return folder


def write_backbone(folder: Path) -> Path:
    """Write an unconditional pipeline of grey images of 8 x 8 pixels there; return the folder."""
    return save(folder, make("UNet2DModel"), DDPMScheduler(num_train_timesteps=50))


def change(file: Path, **values: Any) -> None:
    """Change values in a file of settings."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
