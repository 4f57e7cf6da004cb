"""The clients' side: one worker simulates many clients in turn and keeps none in memory.

A worker is the same class in this process and inside a Ray actor. Images and private states stay
here. A worker returns updates of the shared weights, and measurements.
"""

from pathlib import Path

import numpy as np

from pipeline.clients.adaptation import AdaptationTasks
from pipeline.clients.rounds import RoundTasks
from pipeline.runs.model_files import save_client
from spire_core.federated.secure_aggregation import masked
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import tensors_hash


class ClientWorker(RoundTasks, AdaptationTasks):
    """Simulates clients on one device with one thread; see the module's docstring."""

    def export(self, client_id: int, folder: Path) -> str:
        """Write a client's own parts into a finished run's folder; return their SHA-256."""
        parts = dict(self.private_state(client_id).parts)
        if parts:
            save_client(folder, client_id, parts)
        return tensors_hash(parts)

    def masked_embedding(self, client_id: int, cohort: list[int]) -> np.ndarray:
        """Return this client's embedding under masks that cancel in the cohort's sum.

        This is secure aggregation.
        """
        emb = self.private_state(client_id).parts[CLIENT_EMB]
        return masked(emb, client_id, cohort, self.config.seed)
