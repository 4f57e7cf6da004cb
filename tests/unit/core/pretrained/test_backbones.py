"""Pre-trained networks draw what diffusers draws, and an entrance of zeros changes nothing."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, DiTPipeline, LDMPipeline
from tiny_backbone import NETWORKS, PROMPT, autoencoder, make, save
from torch import Tensor, nn

from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.diffusion.generation import client_denoiser, draw
from spire_core.diffusion.process import Diffusion
from spire_core.diffusion.samplers import SAMPLERS, run_sampler, timestep_grid
from spire_core.methods import CLIENT_EMB, EMB_PROJ, LOCAL
from spire_core.network.flat_model import FlatModel, initial_weights, tensors_hash, train_only
from spire_core.network.pretrained import fold
from spire_core.training.batches import Batch
from spire_core.training.fit import TrainingObjective, training_step
from spire_core.training.fixed_entrance import fixed_entrance

T, SIZE, D_EMB = 12, 8, 5
ENTRANCES = [
    ("UNet2DModel", "time"),
    ("UNet2DModel", "blocks"),
    ("UNet2DConditionModel", "time"),
    ("UNet2DConditionModel", "tokens"),
    ("DiTTransformer2DModel", "time"),
    ("DiTTransformer2DModel", "blocks"),
    ("PixArtTransformer2DModel", "time"),
    ("PixArtTransformer2DModel", "tokens"),
]


def ddim(**more: Any) -> DDIMScheduler:
    return DDIMScheduler(num_train_timesteps=T, clip_sample=False, **more)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("backbones")
    return {name: save(root / name, make(name), ddim()) for name in NETWORKS}


def flat(folder: Path, method: MethodConfig) -> FlatModel:
    config = ModelConfig(d_emb=D_EMB, backbone=str(folder))
    model = FlatModel(config, method, 1)
    model.load(initial_weights(config, method, 1, 0))
    return model


def stream() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def noise(num: int = 2) -> Tensor:
    return torch.randn(num, 1, SIZE, SIZE, generator=stream())


def process(folder: Path, steps: int = T) -> Diffusion:
    return Diffusion.of(DiffusionConfig(sample_steps=steps, sampler="ddim"), backbone=str(folder))


def ours(folder: Path) -> Tensor:
    """What the product draws in pixels, but not clipped on the way, as diffusers has it here."""
    net, grid = flat(folder, MethodConfig("retrofit")).net, timestep_grid(T, T)
    x = run_sampler(process(folder), SAMPLERS["ddim"], net, noise(), grid, clip_x0=False)
    return (x / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def theirs(name: str, network: Any, scheduler: Any, vae: Any = None) -> Tensor:
    """What the library draws from the same noise: by its own pipeline, if it needs no text encoder.

    Its pipelines with text want the package transformers; of these it is their loop.
    """
    scheduler.set_timesteps(T)
    if name == "DiTTransformer2DModel":
        pipe: Any = DiTPipeline(network, vae or Pixels(), scheduler)
        more: dict[str, Any] = {"class_labels": [10, 10], "guidance_scale": 1.0}
    elif name == "UNet2DModel":
        pipe = LDMPipeline(vae, network, scheduler) if vae else DDPMPipeline(network, scheduler)
        more = {"batch_size": 2}
    else:
        channels, side = network.config.in_channels, network.config.sample_size
        x = torch.randn(2, channels, side, side, generator=stream())
        for t in scheduler.timesteps:
            prompt = PROMPT.repeat(2, 1, 1)
            out = network(x, timestep=t.expand(2), encoder_hidden_states=prompt).sample
            x = scheduler.step(out[:, :channels], t, x).prev_sample
        x = x if vae is None else vae.decode(x / vae.config.scaling_factor).sample
        return (x / 2 + 0.5).clamp(0, 1)
    pipe.set_progress_bar_config(disable=True)
    more |= {"num_inference_steps": T, "generator": stream(), "output_type": "np"}
    return torch.from_numpy(pipe(**more).images).permute(0, 3, 1, 2)


class Pixels(nn.Module):
    """An autoencoder whose latents are the pixels."""

    config = SimpleNamespace(scaling_factor=1.0)
    device, dtype = torch.device("cpu"), torch.float32

    def decode(self, latents: Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=latents)


@pytest.mark.parametrize("name", NETWORKS)
def test_it_draws_the_images_of_the_library(name: str, folders: dict[str, Path]) -> None:
    expected = theirs(name, make(name), ddim())
    assert expected.std() > 0.05
    assert (ours(folders[name]) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_a_model_of_latents_draws_the_images_of_the_library(name: str, tmp_path: Path) -> None:
    network, part = make(name, channels=3, side=4), {"UNet2DModel": "vqvae"}.get(name, "vae")
    folder = save(tmp_path, network, ddim(), **{part: autoencoder()})
    net, diffusion = flat(folder, MethodConfig("retrofit")).net, process(folder)
    net.check_images((1, SIZE, SIZE), diffusion.codec)
    found = draw(client_denoiser(net, None), diffusion, (1, SIZE, SIZE), 2, stream())
    expected = theirs(name, network, ddim(), autoencoder())
    assert found.shape == (2, 1, SIZE, SIZE)
    assert expected.std() > 0.01
    assert (found / 2 + 0.5 - expected).abs().max() < 1e-5


@pytest.mark.parametrize(("kind", "beta_end"), [("v_prediction", 0.02), ("sample", 0.05)])
def test_the_folder_tells_the_process(tmp_path: Path, kind: str, beta_end: float) -> None:
    settings = {"prediction_type": kind, "beta_end": beta_end}
    folder = save(tmp_path, make("UNet2DModel"), ddim(**settings))
    expected = theirs("UNet2DModel", make("UNet2DModel"), ddim(**settings))
    assert (ours(folder) - expected).abs().max() < 1e-5
    diffusion = process(folder)
    x0, t = noise(), torch.tensor([2, 7])
    eps = noise().flip(0)
    xt = diffusion.q_sample(x0, t, eps)
    ddpm = DDPMScheduler(num_train_timesteps=T, **settings)
    torch.testing.assert_close(xt, ddpm.add_noise(x0, eps, t))
    back = diffusion.x0_eps(xt, t, diffusion.target(x0, t, eps))
    torch.testing.assert_close(back, (x0, eps), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "entrance"), ENTRANCES)
def test_zeros_are_the_original_network(name: str, entrance: str, folders: dict[str, Path]) -> None:
    """Bit for bit, with a zero map, a zero embedding or none; any other embedding moves it."""
    model, plain = flat(folders[name], MethodConfig("retrofit", entrance=entrance)), make(name)
    x, t = noise(), torch.tensor([1, 8])
    emb = torch.randn(2, D_EMB, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        original = model.net.kind.call(plain, x, t, PROMPT.repeat(2, 1, 1))[:, :1]
        assert torch.equal(model.net(x, t), original)
        assert torch.equal(model.net(x, t, emb), original)  # the map is zero
        model.weights.normal_(generator=torch.Generator().manual_seed(2))
        assert torch.equal(model.net(x, t, torch.zeros(2, D_EMB)), original)
        moved = model.net(x, t, emb)
        assert (moved - original).abs().max() > 1e-3
        alone = model.net(x[1:], t[1:], emb[1:])  # rows do not touch each other
        torch.testing.assert_close(alone, moved[1:], rtol=1e-4, atol=1e-5)
    assert [p for p, at in model.layout.parts.items() if at.stop > at.start] == [EMB_PROJ]
    total = sum(p.numel() for p in plain.parameters())
    assert model.num_frozen == total > 40 * model.layout.size / D_EMB


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("UNet2DModel", "lora"),
        ("UNet2DConditionModel", "diffit"),
        ("DiTTransformer2DModel", "bias"),
        ("PixArtTransformer2DModel", "lora"),
    ],
)
def test_an_adapter_starts_as_the_network_that_it_adapts(
    name: str, method: str, folders: dict[str, Path]
) -> None:
    model, plain = flat(folders[name], MethodConfig(method, freeze=True, rank=2)), make(name)
    x, t = noise(), torch.tensor([1, 8])
    with torch.no_grad():
        original = model.net.kind.call(plain, x, t, PROMPT.repeat(2, 1, 1))[:, :1]
        assert torch.equal(model.net(x, t), original)
        before = tensors_hash(dict(plain.named_parameters()))
    size = model.layout.part_size(LOCAL)
    biases = sum(p.numel() for p in plain.parameters() if p.ndim == 1)
    added = [n for n, _, _ in model.layout.names if n.startswith("adapter.")]
    assert 0 < size == model.layout.size
    assert bool(added) == (method != "bias")
    if method == "bias":
        assert size == biases
    model.net(x, t).square().sum().backward()
    grads = model.grads.clone()
    assert grads.abs().max() > 0
    model.weights -= 0.1 * grads
    with torch.no_grad():
        assert not torch.equal(model.net(x, t), original)
    assert tensors_hash(dict(plain.named_parameters())) == before


FOLDED = [(name, MethodConfig("retrofit", entrance=entrance)) for name, entrance in ENTRANCES]
FOLDED += [("UNet2DModel", MethodConfig(n, freeze=True)) for n in ("lora", "bias", "diffit")]


@pytest.mark.parametrize(("name", "method"), FOLDED)
def test_a_client_folds_into_the_numbers_of_its_network(
    name: str, method: MethodConfig, folders: dict[str, Path]
) -> None:
    model, x, t = flat(folders[name], method), noise(), torch.tensor([1, 8])
    noisy = torch.randn(model.layout.size, generator=torch.Generator().manual_seed(2))
    model.weights += 0.1 * noisy
    emb = None
    if method.record.has_embedding:
        emb = torch.randn(D_EMB, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model.net(x, t, None if emb is None else emb.expand(2, -1))
        network, prompt = fold(model.net, emb)
        tokens = None if prompt is None else prompt.repeat(2, 1, 1)
        found = model.net.kind.call(network, x, t, tokens)[:, :1]
        original = model.net.kind.call(make(name), x, t, PROMPT.repeat(2, 1, 1))[:, :1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found - original).abs().max() > 1e-3


def fixed(folder: Path, model: FlatModel, seed: int) -> Tensor:
    diffusion = process(folder, steps=2)
    start, shape = torch.zeros(model.layout.size), (1, SIZE, SIZE)
    return fixed_entrance(model, start, diffusion, shape, model.method.projection, seed, 24)


def test_the_subspace_holds_more_of_the_gradient_than_a_random_one(
    folders: dict[str, Path],
) -> None:
    folder, x0 = folders["UNet2DModel"], noise(32).clamp(-1, 1)
    diffusion = process(folder, steps=2)
    norms = []
    for projection in ("random", "subspace"):
        method = MethodConfig("retrofit", projection=projection)
        model = flat(folder, method)
        model.load(fixed(folder, model, 0))
        emb = torch.zeros(32, D_EMB, requires_grad=True)
        x, t = noise(32), torch.arange(32) % T
        loss = diffusion.loss(lambda xt, t, m=model, e=emb: m.net(xt, t, e), x0, t, x).sum()
        norms.append(float(torch.autograd.grad(loss, emb)[0].norm()))
    assert norms[1] > 1.5 * norms[0]


@pytest.mark.parametrize(("name", "entrance"), ENTRANCES)
def test_less_memory_gives_the_same_gradients(
    name: str, entrance: str, folders: dict[str, Path]
) -> None:
    """With layers that are computed again, and a batch of three in parts of two."""
    method, images = MethodConfig("retrofit", entrance=entrance), noise(3)
    batch, found = Batch(images, None), []
    for checkpointing, micro_batch in ((False, None), (True, 2)):
        config = ModelConfig(d_emb=D_EMB, backbone=str(folders[name]), checkpointing=checkpointing)
        model = FlatModel(config, method, 1)
        weights = initial_weights(config, method, 1, 0)
        weights[model.layout.parts[EMB_PROJ]] = 0.1
        model.load(weights)
        emb = nn.Parameter(torch.ones(D_EMB))
        diffusion = Diffusion.of(DiffusionConfig(), "cpu", str(folders[name]))
        objective = TrainingObjective(diffusion, micro_batch=micro_batch)
        leaves = {EMB_PROJ: model.leaves[EMB_PROJ], CLIENT_EMB: emb}
        train_only(model.net, model.layout, leaves)
        with model.training():
            loss = training_step(model, emb, batch, objective, stream())
        found.append((loss, emb.grad, model.grads[model.layout.parts[EMB_PROJ]].clone()))
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)
    assert found[0][1].abs().max() > 1e-6
