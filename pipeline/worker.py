"""The clients' side: one worker simulates many clients, one after the other, none kept in memory.

A worker is the same class in this process and inside a Ray actor. Images and private states stay
here; what it returns are updates of the shared weights and measurements.
"""

from pathlib import Path

import numpy as np

from pipeline.saved_run import save_client
from pipeline.worker_adaptation import AdaptationTasks
from pipeline.worker_base import own_parts
from pipeline.worker_rounds import RoundTasks
from spire_core.flat import tensors_hash
from spire_core.methods import CLIENT_EMB
from spire_core.secure_sum import masked


class ClientWorker(RoundTasks, AdaptationTasks):
    """Simulates clients on one device with one thread; see the module's docstring."""

    def export(self, client_id: int, folder: Path) -> str:
        """Write a client's own parts into a finished run's folder; return their SHA-256."""
        state = self.private_state(client_id)
        own = own_parts(state)
        if own:
            save_client(folder, client_id, own)
        return tensors_hash(own)

    def masked_embedding(self, client_id: int, cohort: list[int]) -> np.ndarray:
        """Return this client's embedding under masks that cancel in the cohort's sum.

        This is secure aggregation.
        """
        emb = self.private_state(client_id)[CLIENT_EMB]
        return masked(emb, client_id, cohort, self.config.seed)
