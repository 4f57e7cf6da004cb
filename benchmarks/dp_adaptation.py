"""What differential privacy costs in time: private fits of new clients beside plain ones.

    python benchmarks/dp_adaptation.py --out X.json

Sixteen clients' embeddings in one batch, and one client's whole network, of 64 images each, in the
network of `mnist-cpu`. Private: noisy steps on all images with K noise draws each. Plain: the same
number of example passes without privacy, in batches of all 64 images and in the usual ones of 16.
The systems of a part are timed alternately; a unit is one example pass. On a machine that does
other work only the ratios of CPU seconds mean something. It takes a minute and a half.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from engine import table, where
from timing import System, Systems, alternately

from pipeline.clients.context import keep_freed_memory
from pipeline.config.load import load_config
from spire_core.adaptation.adapt import adapt_client, adapt_embeddings
from spire_core.adaptation.adapt_privately import Protection, adapt_privately
from spire_core.config.adapt import AdaptConfig
from spire_core.config.privacy import PrivateAdaptConfig
from spire_core.diffusion.process import Diffusion
from spire_core.federated.private_state import PrivateState
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel, initial_weights
from spire_core.privacy.noise import SecretNoise, new_key
from spire_core.rng import torch_generator
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective

IMAGES = 64
PARTS = {"embeddings of 16 new clients": ("spire", 16), "network of one": ("fedavg_ft", 1)}
MOST = 3.0  # times as long as plain passes


class Fits:
    """Fits new clients of a method by so many noisy steps, or by as many plain passes."""

    def __init__(self, method: str, num_clients: int, num_steps: int) -> None:
        config = load_config("mnist-cpu", [f"method={method}"])
        network = (config.model, config.method, 1)
        self.model, self.weights = FlatModel(*network), initial_weights(*network, 0)
        # The zero layers of a new network would let no gradient reach an embedding.
        noise = torch.randn(self.weights.shape, generator=torch_generator(0, "perturb"))
        self.weights += 0.02 * noise
        self.objective = TrainingObjective(Diffusion.of(config.diffusion))
        shape, own = (num_clients, IMAGES, 1, 16, 16), torch_generator(0, "images")
        images = torch.randint(0, 256, shape, generator=own, dtype=torch.uint8)
        self.clients = [ClientContext(i, 0, own) for i, own in enumerate(images)]
        self.has_embedding = config.method.record.has_embedding
        parts = {CLIENT_EMB: torch.zeros(config.model.d_emb)} if self.has_embedding else {}
        self.starts = [PrivateState(parts)] * num_clients
        self.observers = [lambda *_: {}] * num_clients
        self.settings = PrivateAdaptConfig(epsilon=4.0, steps=num_steps)
        self.lr = config.method.record.private_lr
        self.num_passes = num_clients * IMAGES * num_steps * self.settings.draws

    def private(self) -> System:
        """Noisy steps of all clients, their embeddings in one batch."""
        protection = Protection(self.settings, 0.01, SecretNoise(new_key()), self.lr, 10**6)

        def call() -> None:
            more = (protection, self.objective, self.observers)
            adapt_privately(self.model, self.weights, self.clients, self.starts, *more)

        return call, (), self.num_passes

    def plain(self, batch_size: int) -> System:
        """As many example passes without privacy, in batches of this size for each client."""
        epochs = self.settings.steps * self.settings.draws
        settings = AdaptConfig(epochs=epochs, batch_size=batch_size, eval_every=10**6)

        def call() -> None:
            if self.has_embedding:
                clients = (self.clients, self.starts, settings, self.objective, self.observers)
                adapt_embeddings(self.model, self.weights, *clients)
                return
            for one in zip(self.clients, self.starts, self.observers, strict=True):
                client, start, observe = one
                more = (start, settings, self.objective, observe)
                adapt_client(self.model, self.weights, client, *more)

        return call, (), self.num_passes

    def systems(self) -> Systems:
        """Return the systems that do the same passes; the first is the one of the ratios."""
        return {
            f"plain, batches of {IMAGES}": self.plain(IMAGES),
            "plain, batches of 16": self.plain(16),
            "private": self.private(),
        }


def main() -> None:
    """Time the systems, print a table, and say whether private embeddings are fast enough."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, default=Path("build/dp_adaptation.json"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1, help="noisy steps (a run has 40)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    told, parts = where(), {}
    for name, (method, num_clients) in PARTS.items():
        parts[name] = alternately(Fits(method, num_clients, args.steps).systems(), args.repeats)
    told["load_average_at_end"] = os.getloadavg()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"where": told, "parts": parts}, indent=1) + "\n")
    print(table(parts))
    private = next(iter(parts.values()))["private"]
    for clock, key in (("CPU", "cpu_ratio"), ("wall", "wall_ratio")):
        verdict = "met" if private[key] <= MOST else "missed"
        what = f"private embeddings take {private[key]:.2f} x the {clock} seconds of plain passes"
        print(f"{what}; {MOST:g} x: {verdict}")


if __name__ == "__main__":
    main()
