"""The work that all systems are given: the same network, images, order, noise, steps and rates.

It needs torch, numpy and `spire_core` alone, and runs in the environment of every system. A client
has 100 images, so that 4 batches of at most 32 are one pass over them.
"""

import argparse
import functools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.diffusion.process import Diffusion, sample_timesteps
from spire_core.network.flat_model import initial_weights
from spire_core.network.unet import UNet
from spire_core.rng import torch_generator
from spire_core.training.batches import batches
from spire_core.training.fit import to_float

DATA = Path("build/peers/clients.npy")  # (200, 100, 1, 16, 16) uint8
NUM_PROCESSES, BATCH_SIZE, LR, SEED = 2, 32, 1e-3, 0
METHOD = MethodConfig("fedavg")
DIFFUSION = Diffusion.of(DiffusionConfig())


@dataclass(frozen=True)
class Work:
    """One round: every client takes `num_steps` Adam steps, Adam being new each time."""

    width: int
    num_clients: int
    num_steps: int

    @property
    def model(self) -> ModelConfig:
        sizes = {"multipliers": (1, 2, 2), "attention": (2,), "cond_dim": 4 * self.width}
        return ModelConfig(width=self.width, space_to_depth=1, **sizes)


WORKS = {
    "tiny": Work(width=8, num_clients=20, num_steps=4),  # 76,049 parameters
    "small": Work(width=16, num_clients=20, num_steps=4),  # 299,937 parameters
    "many": Work(width=8, num_clients=200, num_steps=1),
}


def arguments(*options: str) -> argparse.Namespace:
    """Return what a system is told: the work, the number of rounds, and options of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("num_rounds", type=int)
    for option in options:
        parser.add_argument(option)
    return parser.parse_args()


def client_images(num_clients: int) -> np.ndarray:
    """Return the clients' images (num_clients, 100, 1, 16, 16) uint8."""
    return np.load(DATA)[:num_clients]


def first_weights(work: Work) -> Tensor:
    """Return the weights (P,) that every system begins with."""
    return initial_weights(work.model, METHOD, 1, SEED)


def first_network(work: Work, kind: type[UNet] = UNet) -> UNet:
    """Return the network with the weights that every system begins with."""
    net = kind(work.model, 1, has_embedding=False)
    torch.nn.utils.vector_to_parameters(first_weights(work), net.parameters())
    return net


@functools.cache
def kept(work: Work) -> tuple[UNet, Tensor]:
    """Return a long-lived process's network and all images (num_clients, 100, 1, 16, 16) uint8."""
    torch.set_num_threads(1)
    return first_network(work), torch.from_numpy(client_images(work.num_clients))


def order(work: Work, num_examples: int, client_id: int, round_idx: int) -> Iterator[Tensor]:
    """Yield the index batches of a client's round."""
    generator = torch_generator(SEED, "batch", client_id, round_idx)
    return batches(torch.arange(num_examples), BATCH_SIZE, work.num_steps, generator)


def noise_stream(client_id: int, round_idx: int) -> torch.Generator:
    """Return what a client's round draws its timesteps and noise from."""
    return torch_generator(SEED, "noise", client_id, round_idx)


def batch_loss(net: UNet, x0: Tensor, noise: torch.Generator) -> Tensor:
    """Return the mean denoising loss of a batch of uint8 images (B, 1, 16, 16)."""
    config = DIFFUSION.config
    t = sample_timesteps(len(x0), config.num_timesteps, config.t_power, noise)
    eps = torch.randn(x0.shape, generator=noise)
    return DIFFUSION.loss(net, to_float(x0), t, eps).mean()


def train(net: UNet, images: Tensor, work: Work, client_id: int, round_idx: int) -> float:
    """Train the network as one client does in one round; return its mean loss."""
    optimizer = torch.optim.Adam(net.parameters(), lr=LR, fused=True)
    noise, total = noise_stream(client_id, round_idx), torch.zeros(())
    for index in order(work, len(images), client_id, round_idx):
        optimizer.zero_grad()
        loss = batch_loss(net, images[index], noise)
        loss.backward()
        optimizer.step()
        total += loss.detach()
    return float(total) / work.num_steps


def report(round_idx: int, loss: float) -> None:
    """Tell `run` that a round has ended, when, and its loss, the mean over clients."""
    print(json.dumps({"round_idx": round_idx, "loss": loss, "at": time.time()}), flush=True)
