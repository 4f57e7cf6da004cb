"""The network of an experiment on one device, with its diffusion process and objective.

Trainer, evaluator and adapter share one context, which knows no client. A process that computes is
prepared here: the C library's memory, torch's threads and precision.
"""

import ctypes
import platform
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.clients.client_data import ClientData
from pipeline.config.schema import Config
from spire_core.config.client import ClientConfig
from spire_core.diffusion.process import Diffusion
from spire_core.evaluation.extractors import cached
from spire_core.federated.private_state import PrivateState, new_private_state
from spire_core.network.flat_model import FlatModel
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective, to_float
from spire_core.training.several import rows_by_class

KEPT_BYTES = 2**28  # 256 MiB
LARGEST_BYTES = 2**25  # 32 MiB, the most that every glibc takes
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


@dataclass(frozen=True, eq=False)
class ModelContext:
    """The network whose weights each piece of work replaces, and the settings of that work."""

    config: Config
    image_shape: tuple[int, int, int]  # (C, H, W)
    device: torch.device
    diffusion: Diffusion
    model: FlatModel

    @classmethod
    def start(
        cls, config: Config, image_shape: tuple[int, ...], device: str = "cpu"
    ) -> "ModelContext":
        """Prepare this process for training and return its context, for images (C, H, W)."""
        keep_freed_memory()
        target, (channels, height, width) = torch.device(device), image_shape
        prepare_torch(config.client, target)
        diffusion = Diffusion.of(config.diffusion, target, config.model.backbone)
        model = FlatModel(config.model, config.method, channels, target)
        return cls(config, (channels, height, width), target, diffusion, model)

    def on_device(self, weights: np.ndarray) -> Tensor:
        """Return a copy of the weights (P,) on the device."""
        return torch.tensor(weights, device=self.device)

    def objective(self) -> TrainingObjective:
        """Return the objective of a client's steps; rounds drop embeddings and captions as well."""
        config = self.config
        return TrainingObjective(
            self.diffusion,
            precision=config.client.precision,
            own_loss=config.method.record.loss,
        )

    def new_state(self, client_id: int) -> PrivateState:
        """Return the private state of a client before its first round; its embedding is random."""
        config, sizes = self.config, self.config.model
        return new_private_state(
            self.model, config.client, sizes.d_emb, config.seed, client_id, sizes.num_embs
        )

    def for_training(self, client: ClientData) -> ClientContext:
        """Return a client with its training images, and with their embeddings if classes tell.

        Classes tell nothing of a client that arrives with images alone.
        """
        positions, model, rows = client.split.train, self.config.model, None
        if model.num_embs > 1 and model.assign == "classes" and client.labels is not None:
            rows = rows_by_class(client.labels[positions], model.num_embs)
        return replace(client.with_images_at(positions, self.config.seed), rows=rows)

    def encoder(self, cache: Path) -> Callable[[Tensor], Tensor] | None:
        """Return the function from uint8 images (n, C, H, W) to latents (n, c, h, w) on the CPU.

        None for a process of pixels. Each image is encoded once, on the client's side: `cache` is a
        folder for latents, which later rounds read. The server sees none.
        """
        codec = self.diffusion.codec
        if codec is None:
            return None
        return lambda images: cached(codec.encode, codec.name, to_float(images), cache)


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next step, instead of returning it at once.

    Each step frees all memory that it allocates. By default glibc returns that to the system, which
    clears every page before it hands it out again: a sixth of a small network's training time.
    Without glibc this function does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(_MMAP_THRESHOLD, LARGEST_BYTES)


def prepare_torch(client: ClientConfig, device: torch.device) -> None:
    """Set torch to one thread, and to the precision of matrix products on a GPU."""
    torch.set_num_threads(1)
    allows_tf32 = client.precision == "tf32" and device.type == "cuda"
    torch.set_float32_matmul_precision("high" if allows_tf32 else "highest")
