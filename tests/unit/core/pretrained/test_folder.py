"""Folders of pipelines: known by a hash, read as diffusers reads them, or refused in one line."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from safetensors.torch import load_file, save_file
from tiny_backbone import UNET_SIZES, autoencoder, change, make, save

from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.diffusion.process import Diffusion
from spire_core.errors import ConfigError
from spire_core.network.flat_model import FlatModel
from spire_core.network.pretrained import PretrainedNet
from spire_core.pretrained.folder import (
    BackboneFolder,
    check_same,
    load_network,
    load_schedule,
    open_backbone,
)

BETAS = [0.0, 0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    vae = autoencoder(latent_channels=1)
    return save(tmp_path / "model", make("UNet2DModel"), DDIMScheduler(12), vae=vae)


def changed_tensors(folder: Path, change: Callable[[dict], object]) -> None:
    [file] = (folder / "unet").glob("*.safetensors")
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def other_end(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def opened(folder: Path, size: int = 16) -> FlatModel:
    """Do what a run does with a model before anything is computed."""
    model = FlatModel(ModelConfig(backbone=str(folder)), MethodConfig("retrofit"), 1)
    diffusion = Diffusion.of(DiffusionConfig(sample_steps=12), backbone=str(folder))
    assert isinstance(model.net, PretrainedNet)
    model.net.check_images((1, size, size), diffusion.codec)
    return model


@pytest.mark.parametrize(
    "file",
    [
        "model_index.json",
        "prompt.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ],
)
def test_another_model_is_seen_by_any_file_that_is_read(folder: Path, file: str) -> None:
    before = open_backbone(folder).sha256
    check_same(folder, before)
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content + b" " if file.endswith("json") else other_end(content))
    with pytest.raises(ConfigError, match="expected the run's pre-trained model"):
        check_same(folder, before)


def test_a_model_in_shards_is_loaded_and_known_by_all_of_them(folder: Path) -> None:
    before = load_network(open_backbone(folder)).state_dict()
    [file] = (folder / "unet").glob("*.safetensors")
    file.unlink()
    make("UNet2DModel").save_pretrained(folder / "unet", max_shard_size="20KB")
    shards = list((folder / "unet").glob("*.safetensors"))
    assert len(shards) > 1
    after = load_network(open_backbone(folder)).state_dict()
    assert all(torch.equal(numbers, after[name]) for name, numbers in before.items())
    hashes = {open_backbone(folder).sha256}
    for shard in shards:
        shard.write_bytes(other_end(shard.read_bytes()))
        hashes.add(open_backbone(folder).sha256)
    assert len(hashes) == 1 + len(shards)


def _pickle(folder: Path) -> None:
    [file] = (folder / "unet").glob("*.safetensors")
    file.rename(file.with_suffix(".bin"))


REFUSED: dict[str, Callable[[Path], object]] = {  # the words of a message: what is wrong
    "No such file": shutil.rmtree,
    "no file named diffusion_pytorch_model.safetensors": _pickle,
    "1 missing tensors such as conv_in.weight": lambda f: changed_tensors(
        f, lambda tensors: tensors.pop("conv_in.weight")
    ),
    "'flow'": lambda f: change(f / "scheduler/scheduler_config.json", prediction_type="flow"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_a_folder_of_no_use_is_one_line(folder: Path, words: str) -> None:
    opened(folder)
    REFUSED[words](folder)
    with pytest.raises(ConfigError, match=words) as found:
        opened(folder)
    assert str(found.value).startswith("expected ")
    assert "\n" not in str(found.value)


def test_images_have_the_side_that_a_network_was_trained_on_or_can_halve(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"images of side 16, .*got 32: set data.image_size=16"):
        opened(folder, 32)
    levels = {"down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("UpBlock2D",) * 3}
    sizes = UNET_SIZES | levels | {"block_out_channels": (4, 8, 8), "sample_size": None}
    UNet2DModel(in_channels=1, out_channels=1, **sizes).save_pretrained(folder / "unet")
    for size in (16, 24):
        opened(folder, size)
    with pytest.raises(ConfigError, match="images 1 x 9 x 9"):
        opened(folder, 18)


def test_a_learnt_variance_is_left_out(folder: Path) -> None:
    make("UNet2DModel", out_channels=2).save_pretrained(folder / "unet")
    net = opened(folder).net
    assert net(torch.zeros(2, 1, 8, 8), torch.tensor([1, 2])).shape == (2, 1, 8, 8)


def schedule_of(folder: Path, **settings: object) -> tuple[torch.Tensor, str]:
    path = folder / "scheduler" / "scheduler_config.json"
    path.parent.mkdir()
    path.write_text("{}")
    change(path, **{"_class_name": "DDPMScheduler", "num_train_timesteps": 8, **settings})
    return load_schedule(BackboneFolder(folder, "unet", "UNet2DModel"))


def test_a_file_of_an_older_version_predicts_the_noise(tmp_path: Path) -> None:
    """As diffusers takes it; so the files of Stable Diffusion 1 are."""
    alpha_bar, kind = schedule_of(tmp_path, _class_name="PNDMScheduler", trained_betas=BETAS)
    assert kind == "eps"
    exact = torch.cumprod(1 - torch.tensor(BETAS), 0)
    assert torch.equal(alpha_bar[2:], exact[2:])
