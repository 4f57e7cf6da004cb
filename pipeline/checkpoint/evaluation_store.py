"""Evaluations of pre-training on disk, one file each, so that a resumed run need not repeat them.

`evaluations/<rounds done>.safetensors` holds features, class histograms and images. Its header
holds the scores as JSON, and the SHA-256 of everything.
"""

import dataclasses
import json
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.evaluation.scores import Evaluation
from pipeline.federation.messages import GeneratedSamples, HeldoutLosses
from pipeline.files.damage import GO_BACK, DamagedError, reading
from pipeline.files.tensors import read_tensors, write_tensors
from pipeline.runs.layout import EVALUATIONS
from spire_core.evaluation.kid import KidScore


def save_evaluation(run_dir: Path, evaluation: Evaluation) -> None:
    """Write one evaluation atomically, replacing an earlier one of the same round."""
    tensors: dict[str, Tensor] = {}
    for i, drawn in enumerate(evaluation.drawn):
        tensors[f"{i}.features"] = drawn.features.clone()  # clients may share one tensor
        tensors[f"{i}.images"] = torch.tensor(drawn.images)
        if drawn.histogram is not None:
            tensors[f"{i}.histogram"] = torch.tensor(drawn.histogram)
    scores = {
        "round_idx": evaluation.round_idx,
        "client_ids": evaluation.client_ids,
        "scores": [dataclasses.asdict(score) for score in evaluation.scores],
        "tv": evaluation.tv,
        "losses": [dataclasses.asdict(loss) for loss in evaluation.losses],
    }
    path = evaluation_path(run_dir, evaluation.round_idx)
    path.parent.mkdir(exist_ok=True)
    write_tensors(path, tensors, evaluation=json.dumps(scores))


def evaluation_path(run_dir: Path, num_rounds_done: int) -> Path:
    """Return the path of the evaluation after so many rounds."""
    return run_dir / EVALUATIONS / f"{num_rounds_done:07d}.safetensors"


def evaluated_rounds(run_dir: Path) -> list[int]:
    """Return after how many rounds evaluations were stored, in order."""
    stems = [path.stem for path in (run_dir / EVALUATIONS).glob("*.safetensors")]
    return sorted(int(stem) for stem in stems if stem.isdecimal())


def evaluation_faults(run_dir: Path, rounds: Collection[int]) -> list[str]:
    """Return a sentence for each damaged one of the evaluations after these rounds."""
    faults = []
    for done in rounds:
        try:
            _load(evaluation_path(run_dir, done))
        except DamagedError as error:
            faults.append(str(error).removesuffix(f": {GO_BACK}"))
    return faults


def load_evaluations(run_dir: Path, num_rounds_done: int) -> Iterator[Evaluation]:
    """Yield the evaluations after at most so many rounds, in order; RunError if one is damaged."""
    for done in evaluated_rounds(run_dir):
        if done <= num_rounds_done:
            yield _load(evaluation_path(run_dir, done))


def rewind_evaluations(run_dir: Path, num_rounds_done: int) -> list[str]:
    """Drop the evaluations after more rounds, and the one after as many if it is damaged.

    The latter is computed again. Returns a sentence for it.
    """
    rounds = evaluated_rounds(run_dir)
    faults = evaluation_faults(run_dir, [done for done in rounds if done == num_rounds_done])
    for done in rounds:
        if done > num_rounds_done or (faults and done == num_rounds_done):
            evaluation_path(run_dir, done).unlink(missing_ok=True)
    for part in (run_dir / EVALUATIONS).glob("*.part"):
        part.unlink(missing_ok=True)
    return faults


def _load(path: Path) -> Evaluation:
    with reading("an evaluation", path, GO_BACK):
        tensors, texts = read_tensors(path)
        scores = json.loads(texts["evaluation"])
        ids = tuple(scores["client_ids"])
        return Evaluation(
            scores["round_idx"],
            ids,
            tuple(KidScore(**score) for score in scores["scores"]),
            None if scores["tv"] is None else tuple(scores["tv"]),
            tuple(HeldoutLosses(**loss) for loss in scores["losses"]),
            tuple(_drawn(tensors, i, client_id) for i, client_id in enumerate(ids)),
        )


def _drawn(tensors: dict[str, Tensor], i: int, client_id: int) -> GeneratedSamples:
    histogram = tensors.get(f"{i}.histogram")
    return GeneratedSamples(
        client_id,
        tensors[f"{i}.features"],
        None if histogram is None else histogram.numpy(),
        np.asarray(tensors[f"{i}.images"]),
    )
