"""Makes the folder in which benchmarks/mistakes.py types: finished runs, images and models."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SMALL = ["eval.num_images=8", "adapt.epochs=1", "adapt.num_images=8"]
RUNS = {  # by id: the name, the settings, and the clients of finished runs
    "0123abcd": ("digits", SMALL, [6, 7]),
    "4567abcd": ("letters", [*SMALL, "model.text=words", "model.words=[a,b,bold,thin]"], [6]),
    "89ababcd": ("plain", [*SMALL, "method=fedavg"], []),
}

WEIGHTS = "diffusion_pytorch_model.safetensors"
CHANGED = {  # models by name: a file of each, and what it says
    "hidden8": (f"unet/{WEIGHTS}.index.json", {"weight_map": {"conv_in.bias": "other.bin"}}),
    "groups8": ("unet/config.json", {"norm_num_groups": 0}),
    "text8": ("unet/config.json", {"norm_eps": "small"}),
    "rising8": ("scheduler/scheduler_config.json", {"trained_betas": [0.1, -0.1, 0.1]}),
}


def furnish(folder: Path) -> None:
    """Make finished runs, images and models in a folder."""
    from PIL import Image

    for run_id, (name, settings, clients) in RUNS.items():
        _make_run(folder / "runs" / run_id, name, settings, clients)
    _make_stopped(folder / "runs" / "cdefabcd", "stopped")
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("notes\n")
    for place in ("flat", "photos/cats", "photos/dogs"):
        (folder / place).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (8, 8), (100 * i, 50, 0)).save(folder / place / f"{i}.png")
    index = {"scheduler": ["diffusers", "DDPMScheduler"]}
    _make_model(folder / "pickled", index | {"unet": ["diffusers", "UNet2DModel"]})
    (folder / "pickled" / "unet").mkdir()
    (folder / "pickled" / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"")
    _make_model(folder / "video", index | {"unet": ["diffusers", "UNet3DConditionModel"]})
    _make_network(folder / "ddpm8", 8, 1)
    _make_network(folder / "rgb16", 16, 3)
    _make_network(folder / "partial", 8, 1)
    _drop_weights(folder / "partial" / "unet" / WEIGHTS)
    for name, (file, settings) in CHANGED.items():
        _make_network(folder / name, 8, 1)
        _change(folder / name / file, settings)


def _make_run(folder: Path, name: str, settings: Sequence[str], clients: Sequence[int]) -> None:
    """Write a finished run with a network of zeros."""
    import numpy as np
    import torch

    from pipeline.config.load import load_config
    from pipeline.runs.model_files import save_client, save_run
    from spire_core.network.flat_model import FlatModel

    config = load_config("smoke", settings)
    model = FlatModel(config.model, config.method, 1)
    weights = np.zeros(model.layout.size, np.float32)
    more = {"image_shape": [1, 16, 16], "class_names": list("0123456789")}
    save_run(folder / "model", config, model, weights, more)
    for client_id in clients:
        save_client(folder / "model", client_id, {"client_emb": torch.zeros(config.model.d_emb)})
    _write_record(folder, name)
    (folder / "result.json").write_text('{"metrics": {}}')


def _make_stopped(folder: Path, name: str) -> None:
    """Write a run without a store that has not finished."""
    from pipeline.config.load import load_config
    from pipeline.runs.start import save_start

    _write_record(folder, name)
    save_start(folder, load_config("smoke", ["tracking.enabled=false"]), "smoke", {})


def _write_record(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    record = {"run_id": folder.name, "run_name": name, "started_ms": 0, "kind": "run"}
    (folder / "tracking.json").write_text(json.dumps(record | {"tracked": False, "uri": ""}))


def _make_model(folder: Path, index: dict[str, list[str]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps(index))


def _make_network(folder: Path, size: int, channels: int) -> None:
    """Write a small pre-trained model, as diffusers does."""
    from diffusers.models.unets.unet_2d import UNet2DModel
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    network = UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(8,),
        norm_num_groups=4,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    network.save_pretrained(folder / "unet")
    DDPMScheduler(num_train_timesteps=50).save_pretrained(folder / "scheduler")
    index = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    _make_model(folder, index)


def _change(file: Path, settings: dict[str, Any]) -> None:
    before = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(before | settings))


def _drop_weights(file: Path) -> None:
    """Write a file of weights again without its first tensor."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(file)
    del tensors[min(tensors)]
    save_file(tensors, file)
