"""Evaluations of pre-training on disk, one file each, so that a resumed run need not repeat them.

`evaluations/<rounds done>.safetensors` holds features, class histograms and images; the scores are
JSON in its header. D: features, K: classes.
"""

import dataclasses
import json
import uuid
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline.evaluation import Evaluation
from pipeline.messages import Drawn, Losses
from pipeline.reading import reading
from spire_core.kid import KidScore


def save_evaluation(run_dir: Path, evaluation: Evaluation) -> None:
    """Write one evaluation atomically, replacing an earlier one of the same round."""
    tensors: dict[str, Tensor] = {}
    for i, drawn in enumerate(evaluation.drawn):
        tensors[f"{i}.features"] = drawn.features.clone()  # clients may share one tensor
        tensors[f"{i}.images"] = torch.tensor(drawn.images)
        if drawn.histogram is not None:
            tensors[f"{i}.histogram"] = torch.tensor(drawn.histogram)
    told = {
        "round_idx": evaluation.round_idx,
        "client_ids": evaluation.client_ids,
        "scores": [dataclasses.asdict(score) for score in evaluation.scores],
        "tv": evaluation.tv,
        "losses": [dataclasses.asdict(loss) for loss in evaluation.losses],
    }
    folder = run_dir / "evaluations"
    folder.mkdir(exist_ok=True)
    part = folder / f"{uuid.uuid4().hex}.part"
    save_file(tensors, part, metadata={"evaluation": json.dumps(told)})
    part.replace(folder / f"{evaluation.round_idx:07d}.safetensors")


def load_evaluations(run_dir: Path, num_rounds_done: int) -> list[Evaluation]:
    """Return the evaluations after at most so many rounds, in order; RunError if one is damaged."""
    paths = sorted((run_dir / "evaluations").glob("*.safetensors"))
    return [_load(path) for path in paths if int(path.stem) <= num_rounds_done]


def _load(path: Path) -> Evaluation:
    with reading("an evaluation", path, "delete this file and resume, and it is done again"):
        with safe_open(path, framework="pt") as file:
            told = json.loads(file.metadata()["evaluation"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        ids = tuple(told["client_ids"])
        return Evaluation(
            told["round_idx"],
            ids,
            tuple(KidScore(**score) for score in told["scores"]),
            None if told["tv"] is None else tuple(told["tv"]),
            tuple(Losses(**loss) for loss in told["losses"]),
            tuple(_drawn(tensors, i, client_id) for i, client_id in enumerate(ids)),
        )


def _drawn(tensors: dict[str, Tensor], i: int, client_id: int) -> Drawn:
    histogram = tensors.get(f"{i}.histogram")
    return Drawn(
        client_id,
        tensors[f"{i}.features"],
        None if histogram is None else histogram.numpy(),
        np.asarray(tensors[f"{i}.images"]),
    )
