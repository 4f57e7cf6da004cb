"""A pipeline of diffusers with random weights, the smallest that `model.backbone` takes."""

import json
from pathlib import Path

import torch

UNET_SIZES = {  # what small U-Nets of diffusers have in common, for 8 x 8 numbers
    "sample_size": 8,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
}


def write_backbone(folder: Path) -> Path:
    """Write an unconditional pipeline of grey images there; return the folder."""
    from diffusers import DDPMScheduler, UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = UNet2DModel(
            in_channels=1,
            out_channels=1,
            **UNET_SIZES,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
    network.save_pretrained(folder / "unet")
    DDPMScheduler(num_train_timesteps=50).save_pretrained(folder / "scheduler")
    index = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
