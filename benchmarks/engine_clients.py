"""The parts of `engine.py` that are about single clients: fitting new ones, and drawing images."""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from engine_rounds import config_for
from timing import Call, Systems, alternately

from pipeline.config import load_config
from pipeline.schema import Config
from spire_core.adapt import adapt_client
from spire_core.adapt_together import adapt_embeddings
from spire_core.evaluate import client_denoiser, draw
from spire_core.flat import FlatModel, initial_weights
from spire_core.methods import CLIENT_EMB, MethodConfig
from spire_core.model_config import DiffusionConfig
from spire_core.rng import torch_generator
from spire_core.schedule import NoiseSchedule, denoising_loss, make_schedule
from spire_core.training import Recipe, to_float
from spire_core.training_config import AdaptConfig


def time_adaptation(repeats: int) -> dict[str, Any]:
    """One pass over 64 images in batches of 16, in three networks; a unit is a client."""
    preset, part = load_config("mnist-cpu"), "adaptation, an epoch of 64 images"
    repeats = min(3, repeats)
    found = {part: alternately(adaptation_systems(preset), repeats)}
    for name, width in (("tiny", 8), ("small", 16)):
        config = dataclasses.replace(preset, model=config_for(width, "auto").model)
        found[f"{part}, {name}"] = alternately(adaptation_systems(config), repeats)
    return found


def adaptation_systems(config: Config) -> Systems:
    """What fits new clients in a configuration's network: one by one, together, and entirely."""
    diffusion, settings = config.diffusion, AdaptConfig(epochs=1)
    schedule = make_schedule(diffusion.schedule, diffusion.num_timesteps)
    images = torch.randint(0, 256, (64, 64, 1, 16, 16), dtype=torch.uint8)
    spire, fine_tuning = MethodConfig(name="spire"), MethodConfig(name="fedavg_ft")
    zero = {CLIENT_EMB: torch.zeros(config.model.d_emb)}

    def one_by_one(method: MethodConfig, start: dict[str, torch.Tensor], recipe: Recipe) -> Call:
        model = FlatModel(config.model, method, 1)
        weights = initial_weights(config.model, method, 1, 0)
        more = (settings, recipe, 0)

        def call() -> None:
            for i in range(8):
                adapt_client(model, weights, start, images[i], *more, i, lambda *_: {})

        return call

    model = FlatModel(config.model, spire, 1)
    weights = initial_weights(config.model, spire, 1, 0)

    def together(count: int, size: int, recipe: Recipe) -> Call:
        def call() -> None:
            for ids in torch.arange(count).split(size):
                starts, observers = [zero] * len(ids), [lambda *_: {}] * len(ids)
                own, whose = list(images[ids]), ids.tolist()
                adapt_embeddings(model, weights, starts, own, settings, recipe, 0, whose, observers)

        return call

    def plain() -> None:
        model.load(weights)
        for own in images[:8]:
            fit_plainly(model, own, config.model.d_emb, diffusion, schedule)

    recipe = Recipe(diffusion, schedule, config.client.betas)
    systems: Systems = {"plain loop, embedding": (plain, (), 8)}
    for n in (1, 8, 64):
        systems[f"embedding, {n} in one batch"] = together(n, n, recipe), (), n
    for told, precision in (("", "float32"), (", bf16", "bf16")):
        recipe = dataclasses.replace(recipe, precision=precision)
        entirely = one_by_one(fine_tuning, {}, recipe)
        systems[f"full fine-tuning, one by one{told}"] = entirely, (), 8
        systems[f"embedding, one by one{told}"] = one_by_one(spire, zero, recipe), (), 8
        for n in (8, 16, 32):
            name = f"embedding, 64 in batches of {n}{told}"
            systems[name] = together(64, n, recipe), (), 64
    return systems


def fit_plainly(
    model: FlatModel,
    images: torch.Tensor,
    d_emb: int,
    diffusion: DiffusionConfig,
    schedule: NoiseSchedule,
) -> None:
    """Fit an embedding as one would write it: the network frozen, torch's Adam."""
    net, emb = model.net.requires_grad_(False), torch.nn.Parameter(torch.zeros(d_emb))
    optimizer = torch.optim.Adam([emb], lr=model.method.record.adapt_lr)
    for batch in torch.randperm(64).split(16):
        x0 = to_float(images[batch])
        t, eps = torch.randint(0, diffusion.num_timesteps, (16,)), torch.randn(x0.shape)

        def denoiser(xt: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return net(xt, t, emb.expand(16, -1))

        loss = denoising_loss(schedule, diffusion.prediction, denoiser, x0, t, eps).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def time_sampling(repeats: int) -> dict[str, Any]:
    """16 images for each of 8 clients, in the preset's network."""
    config = load_config("mnist-cpu")
    diffusion, model = config.diffusion, FlatModel(config.model, config.method, 1)
    model.load(initial_weights(config.model, config.method, 1, 0))
    schedule = make_schedule(diffusion.schedule, diffusion.num_timesteps)
    embs = torch.randn(8, config.model.d_emb)

    def images(denoise: Callable, count: int) -> torch.Tensor:
        generator = torch_generator(0, "sample")
        return draw(denoise, diffusion, schedule, (1, 16, 16), count, generator)

    def one_by_one() -> None:
        for emb in embs:
            images(client_denoiser(model, emb), 16)

    def together() -> None:
        rows = embs.repeat_interleave(16, dim=0)
        images(lambda xt, t: model.net(xt, t, rows), 128)

    systems: Systems = {
        "8 clients one by one": (one_by_one, (), 8),
        "8 clients in one batch": (together, (), 8),
    }
    return {"sampling, 16 images": alternately(systems, repeats)}
