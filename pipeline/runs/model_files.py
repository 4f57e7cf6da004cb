"""The files of a finished model: the backbone, and one file for each client's own parts.

`CONFIG` is written last: a model without it is not whole.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from pipeline.config.schema import Config
from pipeline.files.atomic import FORMAT, FORMAT_KEY, write_json, write_whole
from pipeline.runs.record import storable
from spire_core.network.flat_model import FlatModel

CONFIG = "config.json"
GUIDANCE, NAME = "guidance", "name"  # in the header of a client's file


def client_path(folder: Path, client_id: int) -> Path:
    """Return the path of a client's own parts."""
    return folder / "clients" / f"client_{client_id}.safetensors"


def save_client(
    folder: Path,
    client_id: int,
    parts: Mapping[str, Tensor],
    texts: Mapping[str, str] | None = None,
    guidance: float | None = None,
    name: str | None = None,
) -> Path:
    """Write a client's own parts by name; return the file.

    Its header has texts about them, the client's name if it has one, and the guidance that it has
    chosen, if it did. RunError if there is no room for it.
    """
    path = client_path(folder, client_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in parts.items()}
    header = {"client_id": str(client_id), **(texts or {})}
    header |= {} if guidance is None else {GUIDANCE: repr(guidance)}
    header |= {} if name is None else {NAME: name}
    write_whole(path, save(tensors, metadata=header))
    return path


def save_run(
    folder: Path,
    config: Config,
    model: FlatModel,
    weights: np.ndarray,
    more: Mapping[str, Any],
    texts: Mapping[str, str] | None = None,
) -> None:
    """Write the backbone weights (P,) and then the configuration of a run: it is finished.

    `more` is stored beside the configuration, `texts` in the header of the backbone's file.
    RunError if there is no room.
    """
    folder.mkdir(parents=True, exist_ok=True)
    named = model.named_tensors(torch.tensor(weights))
    tensors = {name: tensor.contiguous() for name, tensor in named.items()}
    content = save(tensors, metadata=dict(texts) if texts else None)
    write_whole(folder / "backbone.safetensors", content, is_lasting=True)
    write_json(folder / CONFIG, {FORMAT_KEY: FORMAT, "config": storable(config), **more})
