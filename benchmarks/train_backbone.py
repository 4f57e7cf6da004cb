"""Train a small U-Net of diffusers centrally, without classes or clients, and save its pipeline.

    python benchmarks/train_backbone.py backbones/mnist16

The images are MNIST's test split: the experiments deal out the training split, so that no image of
a client was seen here. FOLDER then is a `model.backbone`, such as the preset retrofit-cpu wants.
"""

import argparse
import copy
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor
from torch.nn import functional as F

from pipeline.config.data import DataConfig
from pipeline.data.datasets import load
from pipeline.data.resize import resized
from spire_core.training.fit import to_float

SIZE, BATCH_SIZE, LR = 16, 64, 1e-3
WARMUP = 100  # steps
EMA = 0.999
CONDITIONS = {"resnet_time_scale_shift": "default", "norm_num_groups": 8, "attention_head_dim": 8}


def make_network(width: int) -> UNet2DModel:
    """Return a network of two levels with attention in the lower one."""
    return UNet2DModel(
        sample_size=SIZE,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(width, 2 * width),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **CONDITIONS,
    )


def batches(images: Tensor) -> Iterator[Tensor]:
    while True:
        yield from images[torch.randperm(len(images))].split(BATCH_SIZE)


def train(
    network: UNet2DModel, scheduler: DDPMScheduler, images: Tensor, steps: int
) -> UNet2DModel:
    """Return the moving average of the network over its training."""
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LR)
    began, total = time.monotonic(), 0.0
    for step, x0 in zip(range(1, steps + 1), batches(images), strict=False):
        scale = min(step / WARMUP, 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = LR * scale
        t = torch.randint(scheduler.config["num_train_timesteps"], (len(x0),))
        eps = torch.randn_like(x0)
        output = network(scheduler.add_noise(x0, eps, t), t).sample  # type: ignore[arg-type]
        loss = F.mse_loss(output, scheduler.get_velocity(x0, eps, t))  # type: ignore[arg-type]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay = min(EMA, (1 + step) / (10 + step))
        for mean, now in zip(average.parameters(), network.parameters(), strict=True):
            mean.lerp_(now.detach(), 1 - decay)
        total += loss.item()
        if step % 100 == 0:
            print(f"step {step}: loss {total / 100:.4f}, {time.monotonic() - began:.0f} s")
            total = 0.0
    return average


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the pipeline goes")
    parser.add_argument("--width", type=int, default=32, help="channels of the upper level")
    parser.add_argument("--steps", type=int, default=4000)
    args = parser.parse_args()
    torch.manual_seed(0)
    data = load(DataConfig(name="mnist"), "test")
    images = to_float(torch.from_numpy(resized(data.images, SIZE)))
    scheduler = DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    network = train(make_network(args.width), scheduler, images, args.steps)
    DDPMPipeline(network, scheduler).save_pretrained(args.folder)
    print(f"{sum(p.numel() for p in network.parameters()):,} numbers in {args.folder}")


if __name__ == "__main__":
    main()
