"""The parts of `engine.py` that are about single clients: fitting new ones, and drawing images."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from engine_rounds import config_for
from timing import System, Systems, alternately

from pipeline.config.load import load_config
from pipeline.config.schema import Config
from spire_core.adaptation.adapt import adapt_client, adapt_embeddings
from spire_core.config.adapt import AdaptConfig
from spire_core.config.method import MethodConfig
from spire_core.diffusion.generation import client_denoiser, draw
from spire_core.diffusion.process import Diffusion
from spire_core.federated.private_state import PrivateState
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel, initial_weights
from spire_core.rng import torch_generator
from spire_core.training.context import ClientContext
from spire_core.training.fit import TrainingObjective, to_float

ADAPTATION = "adaptation, an epoch of 64 images"
DEFAULT = "embedding, 64 in batches of 8"


def time_adaptation(repeats: int) -> dict[str, Any]:
    """One pass over 64 images in batches of 16, in three networks; a unit is a client."""
    return {
        f"{ADAPTATION}{name}": alternately(adaptation_systems(config), repeats)
        for name, config in adapting_networks().items()
    }


def time_batches(repeats: int) -> dict[str, Any]:
    """The same with other numbers of clients in a batch, and in bfloat16."""
    return {
        f"{ADAPTATION}, other batches{name}": alternately(other_batches(config), min(3, repeats))
        for name, config in adapting_networks().items()
    }


def adapting_networks() -> dict[str, Config]:
    """The CPU preset's network, and the two of the rounds."""
    found = {"": load_config("mnist-cpu")}
    for name, width in (("tiny", 8), ("small", 16)):
        model = config_for(width, "auto").model
        found[f", {name}"] = dataclasses.replace(found[""], model=model)
    return found


class Fits:
    """What fits new clients in a configuration's network, each on 64 images of its own."""

    def __init__(self, config: Config, precision: str = "float32") -> None:
        self.config, self.settings = config, AdaptConfig(epochs=1)
        self.objective = TrainingObjective(Diffusion.of(config.diffusion), precision=precision)
        self.images = torch.randint(0, 256, (64, 64, 1, 16, 16), dtype=torch.uint8)

    def model_for(self, method: MethodConfig) -> tuple[FlatModel, torch.Tensor]:
        network = self.config.model, method, 1
        return FlatModel(*network), initial_weights(*network, 0)

    def client(self, i: int) -> ClientContext:
        return ClientContext(i, 0, self.images[i])

    def one_by_one(self, method: str) -> System:
        """Eight clients, each with what the method's new clients train."""
        model, weights = self.model_for(MethodConfig(name=method))
        zero = PrivateState({CLIENT_EMB: torch.zeros(self.config.model.d_emb)})
        start = zero if method == "spire" else PrivateState()

        def call() -> None:
            for i in range(8):
                more = start, self.settings, self.objective, lambda *_: {}
                adapt_client(model, weights, self.client(i), *more)

        return call, (), 8

    def together(self, count: int, size: int) -> System:
        """The embeddings of many clients, so many in one batch."""
        model, weights = self.model_for(MethodConfig(name="spire"))
        zero = PrivateState({CLIENT_EMB: torch.zeros(self.config.model.d_emb)})

        def call() -> None:
            for ids in torch.arange(count).split(size):
                starts, observers = [zero] * len(ids), [lambda *_: {}] * len(ids)
                clients = [self.client(i) for i in ids.tolist()]
                more = starts, self.settings, self.objective, observers
                adapt_embeddings(model, weights, clients, *more)

        return call, (), count

    def plain(self) -> System:
        """The embeddings of eight clients, as one would write it."""
        model, weights = self.model_for(MethodConfig(name="spire"))

        def call() -> None:
            model.load(weights)
            for own in self.images[:8]:
                fit_plainly(model, own, self.config.model.d_emb, self.objective.diffusion)

        return call, (), 8


def adaptation_systems(config: Config) -> Systems:
    """New clients fitted one by one, together, and entirely."""
    fits = Fits(config)
    return {
        "plain loop, embedding": fits.plain(),
        "full fine-tuning, one by one": fits.one_by_one("fedavg_ft"),
        "embedding, one by one": fits.one_by_one("spire"),
        DEFAULT: fits.together(64, 8),
    }


def other_batches(config: Config) -> Systems:
    """New clients fitted in other numbers, and in bfloat16."""
    fits, bf16 = Fits(config), Fits(config, "bf16")
    systems: Systems = {DEFAULT: fits.together(64, 8)}
    for n in (1, 8):
        systems[f"embedding, {n} in one batch"] = fits.together(n, n)
    for n in (16, 32, 64):
        systems[f"embedding, 64 in batches of {n}"] = fits.together(64, n)
    return systems | {
        "full fine-tuning, one by one, bf16": bf16.one_by_one("fedavg_ft"),
        "embedding, one by one, bf16": bf16.one_by_one("spire"),
        f"{DEFAULT}, bf16": bf16.together(64, 8),
    }


def fit_plainly(model: FlatModel, images: torch.Tensor, d_emb: int, diffusion: Diffusion) -> None:
    """Fit an embedding as one would write it: the network frozen, torch's Adam."""
    net, emb = model.net.requires_grad_(False), torch.nn.Parameter(torch.zeros(d_emb))
    optimizer = torch.optim.Adam([emb], lr=model.method.record.adapt_lr)
    for batch in torch.randperm(64).split(16):
        x0 = to_float(images[batch])
        t, eps = torch.randint(0, diffusion.config.num_timesteps, (16,)), torch.randn(x0.shape)

        def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return net(xt, t, emb.expand(16, -1))

        loss = diffusion.loss(denoiser, x0, t, eps).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def time_sampling(repeats: int) -> dict[str, Any]:
    """16 images for each of 8 clients, in the preset's network."""
    config = load_config("mnist-cpu")
    diffusion, model = Diffusion.of(config.diffusion), FlatModel(config.model, config.method, 1)
    model.load(initial_weights(config.model, config.method, 1, 0))
    embs = torch.randn(8, config.model.d_emb)

    def images(denoise: Callable, count: int) -> torch.Tensor:
        generator = torch_generator(0, "sample")
        return draw(denoise, diffusion, (1, 16, 16), count, generator)

    def one_by_one() -> None:
        for emb in embs:
            images(client_denoiser(model.net, emb), 16)

    def together() -> None:
        rows = embs.repeat_interleave(16, dim=0)
        images(lambda xt, t: model.net(xt, t, rows), 128)

    systems: Systems = {
        "8 clients one by one": (one_by_one, (), 8),
        "8 clients in one batch": (together, (), 8),
    }
    return {"sampling, 16 images": alternately(systems, repeats)}
