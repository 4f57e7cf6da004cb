"""Finished runs with networks of zeros, which take no training."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from pipeline.config.load import load_config
from pipeline.runs.model_files import save_client, save_run
from spire_core.network.flat_model import FlatModel

SMALL = ("eval.num_images=8", "adapt.epochs=1", "adapt.num_images=8")


def make_run(
    root: Path, run_id: str, name: str, settings: Sequence[str] = (), clients: Sequence[int] = ()
) -> None:
    """Write a finished run of `smoke` into a root, with these clients' own parts."""
    folder = root / "runs" / run_id
    config = load_config("smoke", [*SMALL, *settings])
    model = FlatModel(config.model, config.method, 1)
    weights = np.zeros(model.layout.size, np.float32)
    more = {"image_shape": [1, 16, 16], "class_names": list("0123456789")}
    save_run(folder / "model", config, model, weights, more)
    for client_id in clients:
        save_client(folder / "model", client_id, {"client_emb": torch.zeros(config.model.d_emb)})
    record = {"run_id": run_id, "run_name": name, "started_ms": 0, "kind": "run"}
    (folder / "run.json").write_text(json.dumps(record | {"tracked": False, "uri": ""}))
    (folder / "result.json").write_text('{"metrics": {}}')
