"""What differential privacy costs in time: new clients' embeddings, private and plain.

    python benchmarks/dp_adaptation.py --out X.json

Sixteen clients of 64 images, in the network of `mnist-cpu`. Private: noisy steps on all images with
K noise draws each, all clients in one batch. Plain: the same number of example passes, in batches
of all 64 images and in the usual ones of 16. The systems are timed alternately; a unit is one
example pass. On a machine that does other work only the ratios of CPU seconds mean something.
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from engine import table, where
from timing import System, Systems, alternately

from pipeline.clients.process import keep_freed_memory
from pipeline.config.load import load_config
from spire_core.adaptation.adapt_privately import adapt_privately
from spire_core.adaptation.adapt_together import adapt_embeddings
from spire_core.adaptation.private_descent import Protection
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

CLIENTS, IMAGES = 16, 64
MOST = 3.0  # times as long as plain passes


class Fits:
    """Fits sixteen new clients by so many noisy steps, or by plain ones with as many passes."""

    def __init__(self, num_steps: int) -> None:
        config = load_config("mnist-cpu")
        network = (config.model, config.method, 1)
        self.model, self.weights = FlatModel(*network), initial_weights(*network, 0)
        # The zero layers of a new network would let no gradient reach an embedding.
        noise = torch.randn(self.weights.shape, generator=torch_generator(0, "perturb"))
        self.weights += 0.02 * noise
        self.objective = TrainingObjective(Diffusion.of(config.diffusion), config.client.betas)
        images = torch.randint(0, 256, (CLIENTS, IMAGES, 1, 16, 16), dtype=torch.uint8)
        self.clients = [ClientContext(i, 0, own) for i, own in enumerate(images)]
        self.starts = [PrivateState({CLIENT_EMB: torch.zeros(config.model.d_emb)})] * CLIENTS
        self.observers = [lambda *_: {}] * CLIENTS
        self.settings = PrivateAdaptConfig(epsilon=4.0, steps=num_steps)
        self.num_passes = CLIENTS * IMAGES * num_steps * self.settings.draws

    def private(self) -> System:
        """Noisy steps of all clients in one batch."""
        protection = Protection(self.settings, 0.01, SecretNoise(new_key()), 0.02, 10**6)

        def call() -> None:
            more = (protection, self.objective, self.observers)
            adapt_privately(self.model, self.weights, self.clients, self.starts, *more)

        return call, (), self.num_passes

    def plain(self, batch_size: int) -> System:
        """As many example passes without privacy, in batches of this size for each client."""
        epochs = self.settings.steps * self.settings.draws
        settings = AdaptConfig(epochs=epochs, batch_size=batch_size, eval_every=10**6)

        def call() -> None:
            more = (settings, self.objective, self.observers)
            adapt_embeddings(self.model, self.weights, self.clients, self.starts, *more)

        return call, (), self.num_passes


def systems(num_steps: int) -> Systems:
    """Return the systems that do the same passes; the first is the one of the ratios."""
    fits = Fits(num_steps)
    return {
        f"plain, batches of {IMAGES}": fits.plain(IMAGES),
        "plain, batches of 16": fits.plain(16),
        "private": fits.private(),
    }


def main() -> None:
    """Time the systems, print a table, and say whether the private one is fast enough."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/dp_adaptation.json"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="noisy steps (a run has 40)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    told = where()
    parts = {f"{CLIENTS} new clients": alternately(systems(args.steps), args.repeats)}
    told["load_average_at_end"] = os.getloadavg()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"where": told, "parts": parts}, indent=1) + "\n")
    print(table(parts))
    [timed] = parts.values()
    ratio = timed["private"]["cpu_ratio"]
    verdict = "met" if ratio <= MOST else "missed"
    print(f"private takes {ratio:.2f} x the CPU seconds of plain passes; {MOST:g} x: {verdict}")


if __name__ == "__main__":
    main()
