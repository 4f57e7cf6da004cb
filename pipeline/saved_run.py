"""A finished run on disk: its configuration, its backbone, and each client's own parts, in files that run no code.

    config.json   backbone.safetensors   clients/client_<id>.safetensors
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.config import Config, config_from_dict
from spire_core.client import PrivateState, personalise
from spire_core.errors import RunError
from spire_core.evaluate import client_denoiser, draw
from spire_core.flat import FlatModel
from spire_core.rng import torch_generator
from spire_core.schedule import make_schedule

CLIENT_FILE = re.compile(r"client_(\d+)\.safetensors")


def client_path(folder: Path, client_id: int) -> Path:
    """Return where a client's own parts lie."""
    return folder / "clients" / f"client_{client_id}.safetensors"


def save_client(folder: Path, client_id: int, state: Mapping[str, Tensor]) -> Path:
    """Write a client's own parts (no optimizer state) and return the file."""
    path = client_path(folder, client_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    own = {name: tensor.contiguous() for name, tensor in state.items() if "." not in name}
    part = path.with_suffix(".part")
    save_file(own, part, metadata={"client_id": str(client_id)})
    part.replace(path)
    return path


def save_run(
    folder: Path, config: Config, model: FlatModel, weights: np.ndarray, more: Mapping[str, Any]
) -> None:
    """Write configuration and backbone weights (P,) of a finished run; `more` is stored beside the configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = model.named_tensors(torch.tensor(weights))
    save_file({k: t.contiguous() for k, t in tensors.items()}, folder / "backbone.safetensors")
    text = json.dumps({"config": config.as_dict(), **more}, indent=1)
    (folder / "config.json").write_text(text + "\n")


@dataclass(frozen=True)
class SavedRun:
    """A finished run, loaded: draws images as any of its clients."""

    folder: Path
    config: Config
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    model: FlatModel
    weights: Tensor

    @classmethod
    def load(cls, path: str | Path) -> "SavedRun":
        """Return the run in a run folder or in the `model` folder inside it; raises RunError if it is not complete."""
        folder = Path(path) / "model" if (Path(path) / "model").is_dir() else Path(path)
        try:
            stored = json.loads((folder / "config.json").read_text())
            tensors = load_file(folder / "backbone.safetensors")
        except (OSError, ValueError) as error:
            raise RunError(
                f"expected a finished run in {folder}, got {error}: wait for the run to end or name another"
            ) from error
        config = config_from_dict(stored["config"])
        shape = tuple(stored["image_shape"])
        model = FlatModel(config.model, config.method, shape[0])
        names = tuple(stored["class_names"])
        return cls(folder, config, shape, names, model, model.flatten(tensors))  # type: ignore[arg-type]

    @property
    def client_ids(self) -> list[int]:
        """Clients whose own parts are stored here; with an impersonal method, none."""
        found = [CLIENT_FILE.fullmatch(p.name) for p in (self.folder / "clients").glob("*")]
        return sorted(int(m.group(1)) for m in found if m)

    def client_state(self, client_id: int | None) -> PrivateState:
        """Return a client's own parts; None is the population (the backbone without an embedding)."""
        if client_id is None:
            return {}
        if client_id not in self.client_ids:
            known = ", ".join(map(str, self.client_ids)) or "none: this method has no personal part"
            raise RunError(f"expected a client out of {known}, got {client_id}: name one of them")
        return load_file(client_path(self.folder, client_id))

    def draw(
        self, client_id: int | None, num_images: int, seed: int = 0, guidance: float = 1.0
    ) -> np.ndarray:
        """Return images (n, C, H, W) float32 in [-1, 1] drawn as a client, or as the population with None."""
        emb = personalise(self.model, self.weights, self.client_state(client_id))
        reference = None
        if guidance != 1.0 and emb is None and client_id is not None:
            reference = FlatModel(self.config.model, self.config.method, self.image_shape[0])
            reference.load(self.weights)
        self.model.net.eval()
        diffusion = self.config.diffusion
        images = draw(
            client_denoiser(self.model, emb, guidance, reference),
            diffusion,
            make_schedule(diffusion.schedule, diffusion.num_timesteps),
            self.image_shape,
            num_images,
            torch_generator(seed, "sample", -1 if client_id is None else client_id),
            self.config.eval.batch_size,
        )
        return images.numpy()
