"""Folders of models that somebody has changed: whatever stands there, one sentence."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DModel
from tiny_backbone import write_backbone

from spire_core.config.method import MethodConfig
from spire_core.config.model import ModelConfig
from spire_core.errors import ConfigError
from spire_core.network.flat_model import FlatModel
from spire_core.pretrained.folder import open_backbone
from spire_core.pretrained.latents import LatentCodec, load_codec
from spire_core.pretrained.loading import load_network

INDEX = "diffusion_pytorch_model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_backbone(tmp_path / "model")


def change(file: Path, **more: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | more))


def sharded(folder: Path) -> Path:
    """Save the network again as the library does if it is large; return the index of its files."""
    network = load_network(open_backbone(folder))
    [file] = (folder / "unet").glob("*.safetensors")
    file.unlink()
    network.save_pretrained(folder / "unet", max_shard_size="50KB")  # type: ignore[operator]
    return folder / "unet" / INDEX


def weight_map(index: Path) -> dict[str, Any]:
    return json.loads(index.read_text())["weight_map"]


class Code:
    """A pickle that leaves a trace where it is opened."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.trace,)


def test_a_model_in_shards_is_loaded_and_known_by_all_of_them(folder: Path) -> None:
    before = load_network(open_backbone(folder)).state_dict()
    index = sharded(folder)
    loaded = open_backbone(folder)
    assert len(loaded.weight_files) == len(set(weight_map(index).values())) > 1
    after = load_network(loaded).state_dict()
    assert all(torch.equal(numbers, after[name]) for name, numbers in before.items())
    hashes = {loaded.sha256}
    for file in loaded.weight_files:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        hashes.add(loaded.sha256)
    assert len(hashes) == 1 + len(loaded.weight_files)


@pytest.mark.parametrize("beside", ["whole", "shards"])
def test_no_file_that_an_index_names_beside_the_hashed_ones_is_opened(
    folder: Path, tmp_path: Path, beside: str
) -> None:
    index = folder / "unet" / INDEX if beside == "whole" else sharded(folder)
    trace = tmp_path / "trace"
    (folder / "unet" / "evil.bin").write_bytes(pickle.dumps(Code(trace)))
    names = {} if beside == "whole" else weight_map(index)
    index.write_text(json.dumps({"metadata": {}, "weight_map": names | {"a": "evil.bin"}}))
    with pytest.raises(ConfigError, match=r"got 'evil\.bin'.*: save the model again"):
        load_network(open_backbone(folder))
    assert not trace.exists()


@pytest.mark.parametrize("value", [None, [], 3, {"a": 3}, {"a": ["b"]}, {}])
def test_an_index_without_names_of_files_is_one_sentence(folder: Path, value: object) -> None:
    change(sharded(folder), weight_map=value)
    with pytest.raises(ConfigError, match=r"weights beside it, got no .*: save the model again"):
        open_backbone(folder)


def test_an_index_names_files_of_its_own_folder_and_all_of_them(folder: Path) -> None:
    index = sharded(folder)
    names = weight_map(index)
    first, second, *_ = sorted({*names.values()})
    for other in ("../scheduler/scheduler_config.json", f"../unet/{first}", "/etc/passwd"):
        change(index, weight_map=names | {"a": other})
        with pytest.raises(ConfigError, match=rf"got '{other}'"):
            open_backbone(folder)
    change(index, weight_map=dict.fromkeys(names, first) | {"a": first})
    with pytest.raises(ConfigError, match=f"got no '{second}'"):
        open_backbone(folder)
    change(index, weight_map=names)
    (folder / "unet" / first).unlink()
    with pytest.raises(ConfigError, match=f"got '{first}'"):
        open_backbone(folder)
    index.write_text("{")
    with pytest.raises(ConfigError, match="got no readable JSON"):
        open_backbone(folder)


def opened(folder: Path, size: int = 8, **settings: Any) -> FlatModel:
    """Do what a run does with a model before anything is computed."""
    change(folder / "unet" / "config.json", **settings)
    model = FlatModel(ModelConfig(backbone=str(folder)), MethodConfig("retrofit"), 1)
    model.net.check_image_size(size)
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {"norm_num_groups": 0},  # fail while it is made
        {"block_out_channels": []},
        {"act_fn": 3},
        {"time_embedding_type": "zz"},
        {"sample_size": 1.5},
        {"sample_size": [[8]]},
        {"norm_eps": "zz"},  # fail while it predicts
        {"downsample_padding": 3},
        {"norm_num_groups": -1},
        {"freq_shift": None},
    ],
    ids=str,
)
def test_a_setting_that_no_network_has_is_one_sentence(folder: Path, settings: dict) -> None:
    with pytest.raises(ConfigError) as found:
        opened(folder, **settings)
    message = str(found.value)
    assert message.startswith("expected ")
    assert ", got " in message
    assert "\n" not in message


def test_memory_that_ends_is_no_damage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(UNet2DModel, "from_pretrained", full)
    with pytest.raises(MemoryError):
        opened(folder)


LEVELS = {"down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("UpBlock2D",) * 3}
LEVELS |= {"block_out_channels": (4, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}


def test_images_that_a_network_cannot_halve_are_refused(folder: Path) -> None:
    UNet2DModel(in_channels=1, out_channels=1, **LEVELS).save_pretrained(folder / "unet")
    for size in (8, 12):
        opened(folder, size)
    for size in (9, 10):
        with pytest.raises(ConfigError, match=rf"side is divisible by 4, .*got {size}: choose"):
            opened(folder, size)


@pytest.mark.parametrize(("num_in", "num_out"), [(3, 1), (1, 3), (2, 1)])
def test_a_network_returns_the_channels_that_it_takes(
    folder: Path, num_in: int, num_out: int
) -> None:
    wrong = UNet2DModel(in_channels=num_in, out_channels=num_out, **LEVELS)
    wrong.save_pretrained(folder / "unet")
    with pytest.raises(ConfigError, match=rf"got in_channels={num_in} and out_channels={num_out}:"):
        opened(folder)


def test_a_learnt_variance_is_taken(folder: Path) -> None:
    UNet2DModel(in_channels=1, out_channels=2, **LEVELS).save_pretrained(folder / "unet")
    net = opened(folder).net
    assert net(torch.zeros(2, 1, 8, 8), torch.tensor([1, 2])).shape == (2, 1, 8, 8)


def with_autoencoder(folder: Path, **settings: Any) -> LatentCodec | None:
    """Add an autoencoder to a folder, and do what a run does with it at first."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        latent_channels=1,
        norm_num_groups=2,
        **(CHANNELS | {name: n for name, n in settings.items() if name in CHANNELS}),
    )
    vae.save_pretrained(folder / "vae")
    change(folder / "model_index.json", vae=["diffusers", "AutoencoderKL"])
    change(folder / "vae" / "config.json", **settings)
    return load_codec(open_backbone(folder), "cpu")


CHANNELS = {"in_channels": 1, "out_channels": 1}


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf"), None, "zz", True, [1]])
def test_a_scaling_factor_that_is_no_scale_is_one_sentence(folder: Path, scale: object) -> None:
    with pytest.raises(ConfigError, match=r"scaling_factor as a finite number above 0 .*, got "):
        with_autoencoder(folder, scaling_factor=scale)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"block_out_channels": []}, "got none of block_out_channels"),
        ({"norm_num_groups": -1}, r"takes and returns images of 1 x 16 x 16, got Expected num gro"),
        ({"out_channels": 3}, r"images of 1 x 16 x 16, got others, 3 x 16 x 16: choose another"),
    ],
)
def test_an_autoencoder_with_other_settings_is_one_sentence(
    folder: Path, settings: dict, words: str
) -> None:
    assert with_autoencoder(folder) is not None
    with pytest.raises(ConfigError, match=words):
        with_autoencoder(folder, **settings)
