"""The base of a worker's tasks: the clients' data, their private states, and a network.

`worker.ClientWorker` combines the tasks of pre-training rounds, evaluations and new clients.
"""

import numpy as np
import torch
from torch import Tensor

from pipeline.clients.process import keep_freed_memory, prepare_torch
from pipeline.clients.store import ClientStore
from pipeline.federation.messages import WorkerSetup
from pipeline.runs.layout import CLIENTS
from spire_core.diffusion.process import Diffusion
from spire_core.evaluation.extractors import Extractor, make_extractor
from spire_core.federated.private_state import PrivateState, new_private_state
from spire_core.network.flat_model import FlatModel
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective


class WorkerBase:
    """The data and the network of all tasks; no client stays in memory between tasks."""

    def __init__(self, setup: WorkerSetup, images: np.ndarray, device: str = "cpu") -> None:
        """Take the setup and all clients' uint8 images (N, C, H, W), possibly in shared memory."""
        keep_freed_memory()
        self.setup, self.config, self.images = setup, setup.config, images
        self.device = torch.device(device)
        config = setup.config
        prepare_torch(config.client, self.device)
        self.diffusion = Diffusion.of(config.diffusion, self.device)
        self.store = ClientStore(setup.folder / CLIENTS)
        self.model = self._new_model()
        self._extractor: Extractor | None = None

    def _new_model(self) -> FlatModel:
        config = self.config
        model = FlatModel(config.model, config.method, self.images.shape[1], self.device)
        model.net.eval()  # training turns dropout on, and off again at its end
        return model

    @property
    def extractor(self) -> Extractor:
        if self._extractor is None:
            weights = self.config.eval.extractor_weights
            self._extractor = make_extractor(self.setup.extractor, weights)
        return self._extractor

    def objective(
        self, emb_dropout: float = 0.0, batch_size: int | None = None
    ) -> TrainingObjective:
        """Return the training objective; `batch_size` is that of a network that may be compiled."""
        client = self.config.client
        compiled_batch = batch_size if client.compile else None
        settings = (client.betas, emb_dropout, client.precision, compiled_batch)
        return TrainingObjective(self.diffusion, *settings)

    def training_context(self, client_id: int) -> ClientContext:
        """Return a client with its training images."""
        return ClientContext(client_id, self.config.seed, self.train_images(client_id))

    def train_images(self, client_id: int) -> Tensor:
        return torch.from_numpy(self.images[self.setup.partition.split(client_id).train])

    def test_images(self, client_id: int, limit: int | None = None) -> Tensor:
        return torch.from_numpy(self.images[self.setup.partition.split(client_id).test[:limit]])

    def private_state(self, client_id: int, num_rounds_done: int | None = None) -> PrivateState:
        """Return a pre-training client's private state, a new one if it has never trained."""
        stored = self.store.load(client_id, num_rounds_done)
        if stored is not None:
            return stored
        config = self.config
        return new_private_state(
            self.model, config.client, config.model.d_emb, config.seed, client_id
        )
