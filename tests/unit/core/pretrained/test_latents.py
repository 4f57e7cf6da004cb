"""Models of latents draw what diffusers draws, and images are encoded as diffusers encodes them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    LDMPipeline,
    PixArtTransformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.image_processor import VaeImageProcessor
from safetensors.torch import save_file
from torch import Tensor

from spire_core.adaptation.public_clip import generated_client
from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.diffusion.generation import client_denoiser, draw
from spire_core.diffusion.process import Diffusion
from spire_core.errors import ConfigError
from spire_core.network.flat_model import FlatModel, initial_weights
from spire_core.pretrained.folder import open_backbone
from spire_core.training.fit import TrainingObjective, to_float
from spire_core.training.fixed_entrance import fixed_entrance
from spire_core.training.heldout import heldout_losses

T, SIZE, SIDE, D_EMB = 12, 8, 4, 5  # images of 8 pixels a side are 4 x 4 latents
SCALE = 0.6
COMMON = {"sample_size": SIDE, "in_channels": 3, "norm_num_groups": 4}
BLOCKS = {"out_channels": 3, "layers_per_block": 1, "block_out_channels": (8, 16)}
TOKENS = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8, "out_channels": 6}
PROMPT = torch.randn(1, 3, 6, generator=torch.Generator().manual_seed(5))


def unet() -> UNet2DModel:
    down, up = ("DownBlock2D", "AttnDownBlock2D"), ("AttnUpBlock2D", "UpBlock2D")
    return UNet2DModel(**COMMON, **BLOCKS, down_block_types=down, up_block_types=up)


def with_text() -> UNet2DConditionModel:
    down = ("DownBlock2D", "CrossAttnDownBlock2D")
    up = ("CrossAttnUpBlock2D", "UpBlock2D")
    more = {"down_block_types": down, "up_block_types": up, "cross_attention_dim": 6}
    return UNet2DConditionModel(**COMMON, **BLOCKS, **more, attention_head_dim=4)


def dit() -> DiTTransformer2DModel:
    return DiTTransformer2DModel(**COMMON, **TOKENS, num_embeds_ada_norm=10)


def pixart() -> PixArtTransformer2DModel:
    return PixArtTransformer2DModel(**COMMON, **TOKENS, cross_attention_dim=16, caption_channels=6)


def autoencoder(channels: int = 1, **more: Any) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        latent_channels=3,
        norm_num_groups=2,
        scaling_factor=SCALE,
        **more,
    )


MAKERS: dict[str, Callable[..., Any]] = {
    "UNet2DModel": unet,
    "UNet2DConditionModel": with_text,
    "DiTTransformer2DModel": dit,
    "PixArtTransformer2DModel": pixart,
}


def made(maker: Callable[..., Any], **more: Any) -> Any:
    """A network with random numbers in every layer, also in those that start at zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = maker(**more).eval()
        for p in network.parameters():
            p.data += 0.02 * torch.randn(p.shape)
    return network.requires_grad_(False)


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(num_train_timesteps=T, clip_sample=False)


def save(folder: Path, network: Any, vae: Any, vae_part: str = "vae") -> Path:
    part = "unet" if type(network).__name__.startswith("UNet") else "transformer"
    parts = {part: network, "scheduler": scheduler(), vae_part: vae}
    for name, model in parts.items():
        model.save_pretrained(folder / name)
    index = {name: ["diffusers", type(model).__name__] for name, model in parts.items()}
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "Some", **index}))
    save_file({"encoder_hidden_states": PROMPT}, folder / "prompt.safetensors")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, vae = tmp_path_factory.mktemp("latent"), made(autoencoder)
    vae_part = {"UNet2DModel": "vqvae"}  # as an LDMPipeline names it
    return {
        name: save(root / name, made(maker), vae, vae_part.get(name, "vae"))
        for name, maker in MAKERS.items()
    }


def flat(folder: Path, channels: int = 1, method: str = "retrofit") -> FlatModel:
    config = ModelConfig(d_emb=D_EMB, backbone=str(folder))
    model = FlatModel(config, MethodConfig(method), channels)
    model.load(initial_weights(config, MethodConfig(method), channels, 0))
    return model


def process(folder: Path) -> Diffusion:
    settings = DiffusionConfig(sample_steps=T, sampler="ddim", num_timesteps=T)
    return Diffusion.of(settings, backbone=str(folder))


def stream() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@torch.no_grad()
def theirs(name: str, network: Any, vae: Any) -> Tensor:
    """What the library draws: by its own pipeline or, with text, by its pipelines' loop."""
    if name == "DiTTransformer2DModel":
        pipe: Any = DiTPipeline(network, vae, scheduler())
        more: dict[str, Any] = {"class_labels": [10, 10], "guidance_scale": 1.0}
    elif name == "UNet2DModel":
        pipe, more = LDMPipeline(vae, network, scheduler()), {"batch_size": 2}
    else:
        x, steps = torch.randn(2, 3, SIDE, SIDE, generator=stream()), scheduler()
        steps.set_timesteps(T)
        for t in steps.timesteps:
            prompt = PROMPT.repeat(2, 1, 1)
            out = network(x, timestep=t.expand(2), encoder_hidden_states=prompt).sample[:, :3]
            x = steps.step(out, t, x).prev_sample
        return (vae.decode(x / vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    pipe.set_progress_bar_config(disable=True)
    more |= {"num_inference_steps": T, "generator": stream(), "output_type": "np"}
    return torch.from_numpy(pipe(**more).images).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", MAKERS)
def test_it_draws_the_images_of_the_library(name: str, folders: dict[str, Path]) -> None:
    denoise = client_denoiser(flat(folders[name]).net, None)
    found = draw(denoise, process(folders[name]), (1, SIZE, SIZE), 2, stream())
    expected = theirs(name, made(MAKERS[name]), made(autoencoder))
    assert found.shape == (2, 1, SIZE, SIZE)
    assert expected.std() > 0.01
    assert (found / 2 + 0.5 - expected).abs().max() < 1e-5


def test_images_are_encoded_as_the_library_encodes_them(folders: dict[str, Path]) -> None:
    """By the mean of the posterior, scaled; an image's latents depend on no other image."""
    codec, vae = process(folders["UNet2DModel"]).codec, made(autoencoder)
    assert codec is not None
    pixels = torch.randint(0, 256, (3, 1, SIZE, SIZE), generator=torch.Generator().manual_seed(2))
    images = to_float(pixels.byte())
    latents = codec.encode(images)
    with torch.no_grad():
        theirs = VaeImageProcessor().normalize(pixels / 255)
        expected = vae.encode(theirs).latent_dist.mean * SCALE
    assert latents.shape == (3, 3, SIDE, SIDE)
    torch.testing.assert_close(latents, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(latents[1:], codec.encode(images[1:]))
    assert torch.equal(to_float(latents), latents)
    with torch.no_grad():
        torch.testing.assert_close(
            codec.decode(latents), vae.decode(expected / SCALE).sample, rtol=1e-5, atol=1e-5
        )


def test_no_part_of_the_autoencoder_is_trained(folders: dict[str, Path]) -> None:
    model = flat(folders["UNet2DModel"], method="spire")
    assert model.num_frozen == 0
    own = sum(p.numel() for p in made(unet).parameters())
    assert model.layout.size == own + D_EMB * model.net.emb_proj.out_features  # type: ignore
    assert not any(p.requires_grad for p in process(folders["UNet2DModel"]).codec.vae.parameters())  # type: ignore


def test_a_fixed_entrance_is_that_of_latents(folders: dict[str, Path]) -> None:
    folder = folders["UNet2DModel"]
    method = MethodConfig("retrofit", projection="subspace")
    model = FlatModel(ModelConfig(d_emb=D_EMB, backbone=str(folder)), method, 1)
    more = (process(folder), (1, SIZE, SIZE), "subspace", 0, 8)
    entrance = fixed_entrance(model, torch.zeros(model.layout.size), *more)
    assert entrance.norm() > 1


def changed(folder: Path, **more: Any) -> None:
    file = folder / "vae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | more))


def damaged(folder: Path, what: str) -> None:
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    index = folder / "model_index.json"
    if what == "tiny":
        index.write_text(index.read_text().replace("AutoencoderKL", "AutoencoderTiny"))
    elif what == "none":
        shutil.rmtree(folder / "vae")
    elif what == "pickle":
        weights.rename(weights.with_suffix(".bin"))
    elif what == "cut":
        weights.write_bytes(weights.read_bytes()[:100])
    elif what == "huge":
        with weights.open("r+b") as sparse:
            sparse.truncate(2**43)
    elif what == "shift":
        changed(folder, shift_factor=0.1)
    elif what == "channels":
        changed(folder, latent_channels=4)
    elif what == "settings":
        (folder / "vae" / "config.json").write_text("{}")


def opened(folder: Path) -> FlatModel:
    model = flat(folder)  # in the order of a run
    process(folder)
    return model


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("tiny", "an AutoencoderKL as the autoencoder of a model of latents, got a AutoencoderT"),
        ("none", "weights as safetensors in"),
        ("pickle", "a pickle, which can run code"),
        ("cut", "expected a AutoencoderKL of diffusers in"),
        ("huge", "MiB to load"),
        ("shift", "one with shift_factor"),
        ("channels", "an autoencoder of 3 latent channels"),
        ("settings", "the settings of an AutoencoderKL"),
    ],
)
def test_an_autoencoder_that_does_not_fit_is_one_sentence(
    folders: dict[str, Path], tmp_path: Path, what: str, words: str
) -> None:
    folder = Path(shutil.copytree(folders["DiTTransformer2DModel"], tmp_path / "copy"))
    damaged(folder, what)
    with pytest.raises(ConfigError) as found:
        opened(folder)
    message = str(found.value)
    assert words in message
    assert message.startswith("expected ")
    assert ", got " in message
    assert "\n" not in message


def test_images_that_do_not_fit_are_one_sentence(folders: dict[str, Path]) -> None:
    model = flat(folders["UNet2DModel"])
    model.net.check_image_size(SIZE)
    with pytest.raises(ConfigError, match=r"images of side 8, .*got 16: set data.image_size=8"):
        model.net.check_image_size(16)
    with pytest.raises(ConfigError, match=r"images of 1 channels.*got 3"):
        flat(folders["UNet2DModel"], channels=3)
    for name, halved in (("UNet2DModel", 4), ("UNet2DConditionModel", 2)):
        model = flat(folders[name])
        model.net._settings.sample_size = None
        for size in (16, 8 + halved):
            model.net.check_image_size(size)
        with pytest.raises(ConfigError, match=rf"divisible by {halved}, .*got 9: choose another"):
            model.net.check_image_size(9)


def test_the_hash_is_of_the_autoencoder_too(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["DiTTransformer2DModel"], tmp_path / "copy"))
    before = open_backbone(folder)
    hashes = before.sha256, before.autoencoder_sha256
    changed(folder, scaling_factor=0.7)
    after = open_backbone(folder)
    assert after.sha256 != hashes[0]
    assert after.autoencoder_sha256 != hashes[1]


def test_public_images_are_shown_as_latents(folders: dict[str, Path]) -> None:
    folder = folders["UNet2DModel"]
    model, diffusion = flat(folder), process(folder)
    weights, objective = model.weights.clone(), TrainingObjective(diffusion)
    client = generated_client(model, weights, objective, (1, SIZE, SIZE), 0)
    assert client.images.shape[1:] == (3, SIDE, SIDE)
    loss = heldout_losses(model, torch.zeros(D_EMB), client, diffusion)
    assert loss.shape == client.images.shape[:1]
