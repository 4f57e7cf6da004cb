"""A client on SPIRE's own U-Net becomes a folder from which diffusers draws the same images."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel
from diffusers.utils import dynamic_modules_utils
from torch import Tensor

from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig, num_norm_groups
from spire_core.diffusion.generation import client_denoiser, draw
from spire_core.diffusion.process import Diffusion
from spire_core.diffusion.samplers import GRID_POWER, timestep_grid
from spire_core.network.diffusers_names import numbers_of, settings_of
from spire_core.network.flat_model import FlatModel
from spire_core.network.unet import UNet
from spire_core.pretrained import spire_pipeline, spire_unet
from spire_core.pretrained.folder import open_backbone
from spire_core.pretrained.own_folder import write_own

T, SIZE, D_EMB = 60, 8, 5
GROUPED = ModelConfig(d_emb=D_EMB, width=16, cond_dim=24)  # groups of 4 and 8, pixels folded
PLAIN = ModelConfig(  # 32 groups everywhere
    d_emb=D_EMB, width=96, multipliers=(1, 1), cond_dim=20, space_to_depth=1
)
FEW_STEPS = DiffusionConfig(num_timesteps=T, sample_steps=6)
pytestmark = pytest.mark.filterwarnings(
    # diffusers' DPM-Solver calls np.array on a tensor
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.fixture(autouse=True)
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where diffusers puts code of folders that it runs."""
    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))


def noisy(config: ModelConfig, method: str = "spire", channels: int = 1) -> FlatModel:
    """A network with random numbers in every layer, also in those that start at zero."""
    model = FlatModel(config, MethodConfig(method), channels)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for p in model.net.parameters():
            p.data.copy_(torch.randn(p.shape) * (0.5 / max(1, p[0].numel()) ** 0.5))
    return model


def embedding() -> Tensor:
    return torch.randn(D_EMB, generator=torch.Generator().manual_seed(1))


def ours(net: Any, emb: Tensor | None, config: DiffusionConfig, backbone: str | None = None):
    diffusion, channels = Diffusion.of(config, backbone=backbone), 1
    stream = torch.Generator().manual_seed(4)
    return draw(client_denoiser(net, emb), diffusion, (channels, SIZE, SIZE), 3, stream)


def export(folder: Path, model: FlatModel, emb: Tensor | None, config: DiffusionConfig) -> Path:
    net = model.net
    assert isinstance(net, UNet)
    write_own(folder, settings_of(net, 1, SIZE), numbers_of(net, emb), config)
    return folder


def theirs(folder: Path, **more: Any) -> Tensor:
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, **more)
    assert type(pipe).__module__ == "diffusers_modules.local.spire_pipeline"
    pipe.set_progress_bar_config(disable=True)
    images = pipe(3, generator=torch.Generator().manual_seed(4), output_type="pt").images
    return images * 2 - 1


@pytest.mark.parametrize(
    ("sampler", "prediction", "schedule"),
    [("ddpm", "eps", "linear"), ("ddim", "x0", "cosine"), ("dpmpp", "v", "cosine")],
)
def test_diffusers_draws_the_same_images(
    tmp_path: Path, sampler: str, prediction: str, schedule: str
) -> None:
    words = {"sampler": sampler, "prediction": prediction, "schedule": schedule}
    config = dataclasses.replace(FEW_STEPS, **words)
    model = noisy(GROUPED)
    expected = ours(model.net, embedding(), config)
    found = theirs(export(tmp_path / "run", model, embedding(), config))
    assert expected.std() > 0.2
    assert (found - expected).abs().max() < 1e-5


def test_a_network_like_diffusers_own_needs_no_code(tmp_path: Path) -> None:
    model = noisy(PLAIN)
    expected = ours(model.net, embedding(), FEW_STEPS)
    folder = export(tmp_path / "run", model, embedding(), FEW_STEPS)
    pipe = DiffusionPipeline.from_pretrained(folder)
    assert (type(pipe).__name__, type(pipe.unet)) == ("DDPMPipeline", UNet2DModel)
    found = theirs(folder, custom_pipeline="spire_pipeline")
    assert (found - expected).abs().max() < 1e-5
    more = {"num_inference_steps": 2, "output_type": "np"}
    pipe.set_progress_bar_config(disable=True)
    assert pipe(2, **more).images.shape == (2, SIZE, SIZE, 1)  # by diffusers' own steps


@pytest.mark.parametrize("config", [GROUPED, PLAIN], ids=["grouped", "plain"])
def test_one_of_several_embeddings_is_drawn_for_each_image(
    tmp_path: Path, config: ModelConfig
) -> None:
    """By weight, with the caller's generator; the first noise is that of a single embedding."""
    model, steps = noisy(config), dataclasses.replace(FEW_STEPS, sampler="dpmpp")
    embs = torch.randn(3, D_EMB, generator=torch.Generator().manual_seed(1))
    stream, mixed = torch.Generator().manual_seed(4), [0.2, 0.3, 0.5]
    torch.randn(3, 1, SIZE, SIZE, generator=stream)
    rows = torch.multinomial(torch.tensor(mixed), 3, replacement=True, generator=stream)
    assert len(rows.unique()) > 1
    for weights, emb in (([1.0, 0.0, 0.0], embs[0]), (mixed, embs[rows])):
        expected, folder = ours(model.net, emb, steps), tmp_path / f"run{len(emb)}"
        numbers = numbers_of(model.net, embs)  # type: ignore[arg-type]
        write_own(folder, settings_of(model.net, 1, SIZE), numbers, steps, weights)  # type: ignore
        assert (theirs(folder) - expected).abs().max() < 1e-5
    streams = [torch.Generator().manual_seed(seed) for seed in (4, 5)]
    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    assert len(pipe(2, generator=streams, output_type="pt").images) == 2


@pytest.mark.parametrize("config", [GROUPED, PLAIN], ids=["grouped", "plain"])
def test_such_a_folder_is_a_backbone(tmp_path: Path, config: ModelConfig) -> None:
    """It draws as the client did, takes a new entrance, and no code in it runs."""
    client = noisy(config)
    before = ours(client.net, embedding(), FEW_STEPS)
    folder = export(tmp_path / "run", client, embedding(), FEW_STEPS)
    for code in folder.rglob("*.py"):
        code.write_text("raise SystemExit")
    again = ModelConfig(d_emb=D_EMB, backbone=str(folder))
    for entrance in ("time", "blocks"):
        model = FlatModel(again, MethodConfig("retrofit", entrance=entrance), 1)
        model.net.check_images((1, SIZE, SIZE), None)  # type: ignore[operator]
        drawn = ours(model.net, None, FEW_STEPS, backbone=str(folder))
        assert (drawn - before).abs().max() < 1e-5
        model.weights.normal_(generator=torch.Generator().manual_seed(2))
        x, t = torch.ones(2, 1, SIZE, SIZE), torch.tensor([1, 8])
        with torch.no_grad():
            moved = model.net(x, t, torch.ones(2, D_EMB)) - model.net(x, t)
        assert moved.abs().max() > 1e-3
    assert open_backbone(folder).class_name == ("SpireUNet" if config is GROUPED else "UNet2DModel")


@pytest.mark.parametrize(
    ("config", "method", "has_embedding"),
    [
        (GROUPED, "spire", False),  # the population
        (GROUPED, "lora", False),
        (GROUPED, "diffit", False),
        (dataclasses.replace(GROUPED, text="words", words=("a", "b")), "spire", True),
        (ModelConfig(D_EMB, width=40, multipliers=(1, 2, 3), attention=()), "spire", True),
        (dataclasses.replace(GROUPED, num_blocks=2, attention=(0, 1)), "spire", True),
    ],
)
def test_other_networks_compute_the_same(
    config: ModelConfig, method: str, has_embedding: bool
) -> None:
    model = noisy(config, method, channels=3)
    net, emb = model.net, embedding() if has_embedding else None
    assert isinstance(net, UNet)
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([1, 50])
    with torch.no_grad():
        expected = net(x, t, None if emb is None else emb.expand(2, -1))
        network = spire_unet.SpireUNet(**settings_of(net, 3, 16))
        network.unet.load_state_dict(numbers_of(net, emb))
        found = network(x, t).sample
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_copied_code_does_without_ours_and_says_the_same() -> None:
    for module in (spire_unet, spire_pipeline):
        source = Path(str(module.__file__)).read_text()
        assert not re.search(r"^\s*(from|import) (?!torch|diffusers|math|typing)", source, re.M)
    for channels in range(8, 400, 8):
        assert spire_unet.num_norm_groups(channels) == num_norm_groups(channels)
    for num, steps in [(1000, 12), (1000, 1000), (50, 50), (60, 7)]:
        expected = timestep_grid(num, steps, power=GRID_POWER)
        assert spire_pipeline.timestep_grid(num, steps) == expected
