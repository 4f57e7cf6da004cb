"""Evaluations of pre-training on disk, one file each, so that a resumed run need not repeat them.

`evaluations/<rounds done>.safetensors` holds features, class histograms and images; the scores are
JSON in its header, beside the SHA-256 of all of it. D: features, K: classes.
"""

import dataclasses
import hashlib
import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from pipeline.evaluation.scores import Evaluation
from pipeline.federation.messages import Drawn, Losses
from pipeline.files.atomic import write_whole
from pipeline.files.damage import GO_BACK, DamagedError, reading
from pipeline.runs.layout import EVALUATIONS
from spire_core.evaluation.kid import KidScore
from spire_core.network.flat_model import tensors_hash


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
    text = json.dumps(told)
    header = {"evaluation": text, "sha256": _sha256(tensors, text)}
    path = evaluation_path(run_dir, evaluation.round_idx)
    path.parent.mkdir(exist_ok=True)
    write_whole(path, save(tensors, metadata=header))


def evaluation_path(run_dir: Path, num_rounds_done: int) -> Path:
    """Return where the evaluation after so many rounds lies."""
    return run_dir / EVALUATIONS / f"{num_rounds_done:07d}.safetensors"


def evaluated_rounds(run_dir: Path) -> list[int]:
    """Return after how many rounds there is an evaluation, in order."""
    stems = [path.stem for path in (run_dir / EVALUATIONS).glob("*.safetensors")]
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def evaluation_faults(run_dir: Path, rounds: Collection[int]) -> list[str]:
    """Return what is wrong with the evaluations after these rounds, file by file."""
    found = []
    for done in rounds:
        try:
            _load(evaluation_path(run_dir, done))
        except DamagedError as error:
            found.append(str(error).removesuffix(f": {GO_BACK}"))
    return found


def load_evaluations(run_dir: Path, num_rounds_done: int) -> list[Evaluation]:
    """Return the evaluations after at most so many rounds, in order; RunError if one is damaged."""
    rounds = [done for done in evaluated_rounds(run_dir) if done <= num_rounds_done]
    return [_load(evaluation_path(run_dir, done)) for done in rounds]


def rewind_evaluations(run_dir: Path, num_rounds_done: int) -> list[str]:
    """Drop the evaluations after more rounds, and a damaged one after as many: it is done again.

    Returns what is wrong with that one.
    """
    rounds = evaluated_rounds(run_dir)
    faults = evaluation_faults(run_dir, [done for done in rounds if done == num_rounds_done])
    for done in rounds:
        if done > num_rounds_done or (faults and done == num_rounds_done):
            evaluation_path(run_dir, done).unlink(missing_ok=True)
    for part in (run_dir / EVALUATIONS).glob("*.part"):
        part.unlink(missing_ok=True)
    return faults


def _sha256(tensors: dict[str, Tensor], text: str) -> str:
    return hashlib.sha256(f"{tensors_hash(tensors)} {text}".encode()).hexdigest()


def _load(path: Path) -> Evaluation:
    with reading("an evaluation", path, GO_BACK):
        with path.open("rb"), safe_open(path, framework="pt") as file:  # as in `client_store`
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if header["sha256"] != _sha256(tensors, header["evaluation"]):
            raise ValueError("other content than was written")
        told = json.loads(header["evaluation"])
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
