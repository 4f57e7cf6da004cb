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
from spire_core.rng import torch_generator
from spire_core.schedule import denoising_loss, make_schedule
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
    diffusion = config.diffusion
    schedule = make_schedule(diffusion.schedule, diffusion.num_timesteps)
    float32, settings = Recipe(diffusion, schedule, config.client.betas), AdaptConfig(epochs=1)
    bf16 = dataclasses.replace(float32, precision="bf16")
    images = torch.randint(0, 256, (64, 64, 1, 16, 16), dtype=torch.uint8)

    def one_by_one(
        method: MethodConfig, start: dict[str, torch.Tensor], recipe: Recipe = float32
    ) -> Call:
        model = FlatModel(config.model, method, 1)
        weights = initial_weights(config.model, method, 1, 0)

        def call() -> None:
            for i in range(8):
                adapt_client(
                    model, weights, start, images[i], settings, recipe, 0, i, lambda *_: {}
                )

        return call

    spire, zero = MethodConfig(name="spire"), {CLIENT_EMB: torch.zeros(config.model.d_emb)}
    model = FlatModel(config.model, spire, 1)
    weights = initial_weights(config.model, spire, 1, 0)

    def plain() -> None:
        """As one would write it: the network frozen, torch's Adam, a client after the other."""
        model.load(weights)
        net = model.net.requires_grad_(False)
        for i in range(8):
            emb = torch.nn.Parameter(zero[CLIENT_EMB].clone())
            optimizer = torch.optim.Adam([emb], lr=spire.record.adapt_lr)
            for batch in torch.randperm(64).split(16):
                x0 = to_float(images[i][batch])
                t, eps = torch.randint(0, diffusion.num_timesteps, (16,)), torch.randn(x0.shape)
                condition = emb.expand(16, -1)
                loss = denoising_loss(
                    schedule,
                    diffusion.prediction,
                    lambda xt, at, c=condition: net(xt, at, c),
                    x0,
                    t,
                    eps,
                ).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

    def together(count: int, size: int, recipe: Recipe = float32) -> Call:
        def call() -> None:
            for ids in torch.arange(count).split(size):
                starts, observers = [zero] * len(ids), [lambda *_: {}] * len(ids)
                own, whose = list(images[ids]), ids.tolist()
                adapt_embeddings(model, weights, starts, own, settings, recipe, 0, whose, observers)

        return call

    fine_tuning = one_by_one(MethodConfig(name="fedavg_ft"), {})
    return {
        "plain loop, embedding": (plain, (), 8),
        "full fine-tuning, one by one": (fine_tuning, (), 8),
        "embedding, one by one": (one_by_one(spire, zero), (), 8),
        **{f"embedding, {n} in one batch": (together(n, n), (), n) for n in (1, 8, 64)},
        **{f"embedding, 64 in batches of {n}": (together(64, n), (), 64) for n in (8, 16, 32)},
        "full fine-tuning, one by one, bf16": (
            one_by_one(MethodConfig(name="fedavg_ft"), {}, bf16),
            (),
            8,
        ),
        "embedding, one by one, bf16": (one_by_one(spire, zero, bf16), (), 8),
        **{
            f"embedding, 64 in batches of {n}, bf16": (together(64, n, bf16), (), 64)
            for n in (8, 16, 32)
        },
    }


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
