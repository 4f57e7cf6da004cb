"""The network of an experiment on one device, with its diffusion process and objective.

Trainer, evaluator and adapter share one context. It knows no client and no file.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.clients.process import keep_freed_memory, prepare_torch
from pipeline.config.schema import Config
from spire_core.diffusion.process import Diffusion
from spire_core.federated.private_state import PrivateState, new_private_state
from spire_core.network.flat_model import FlatModel
from spire_core.training.fit import TrainingObjective


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

    def another_model(self) -> FlatModel:
        """Return a second network of the same shape on the same device."""
        return FlatModel(self.config.model, self.config.method, self.image_shape[0], self.device)

    def on_device(self, weights: np.ndarray) -> Tensor:
        """Return a copy of the weights (P,) on the device."""
        return torch.tensor(weights, device=self.device)

    def objective(self) -> TrainingObjective:
        """Return the objective of new clients."""
        return TrainingObjective(self.diffusion, precision=self.config.client.precision)

    def round_objective(self) -> TrainingObjective:
        """Return the objective of rounds, which drops embeddings and captions."""
        client = self.config.client
        return replace(
            self.objective(),
            emb_dropout=client.emb_dropout,
            text_dropout=client.text_dropout,
        )

    def new_state(self, client_id: int) -> PrivateState:
        """Return the private state of a client before its first round; its embedding is random."""
        config = self.config
        settings = (config.client, config.model.d_emb, config.seed)
        return new_private_state(self.model, *settings, client_id)
