"""Evaluations of pre-training on disk, one file each, so that a resumed run need not repeat them.

`evaluations/<rounds done>.safetensors` holds features, class histograms and images as
`<position>.features` and so on; the header holds the scores as JSON.
"""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from pipeline.evaluation.scores import Evaluation
from pipeline.federation.messages import GeneratedSamples, HeldoutLosses
from pipeline.files.tensors import read_arrays, write_arrays
from pipeline.runs.layout import EVALUATIONS
from spire_core.evaluation.kid import KidScore


def evaluation_path(run_dir: Path, num_rounds_done: int) -> Path:
    """Return the path of the evaluation after so many rounds."""
    return run_dir / EVALUATIONS / f"{num_rounds_done:07d}.safetensors"


def evaluated_rounds(run_dir: Path) -> list[int]:
    """Return after how many rounds evaluations were stored, in order."""
    return sorted(int(path.stem) for path in (run_dir / EVALUATIONS).glob("*.safetensors"))


def save_evaluation(run_dir: Path, evaluation: Evaluation) -> None:
    """Write one evaluation atomically, replacing an earlier one of the same round."""
    arrays = {
        f"{i}.{kind}": np.asarray(array)
        for i, drawn in enumerate(evaluation.drawn)
        for kind in ("features", "histogram", "images")
        if (array := getattr(drawn, kind)) is not None
    }
    scores = json.dumps(dataclasses.asdict(evaluation.without_samples()))
    path = evaluation_path(run_dir, evaluation.round_idx)
    path.parent.mkdir(exist_ok=True)
    write_arrays(path, arrays, evaluation=scores)


def load_evaluations(run_dir: Path, num_rounds_done: int) -> Iterator[Evaluation]:
    """Yield the evaluations after at most so many rounds, in order; RunError if one is damaged."""
    for done in evaluated_rounds(run_dir):
        if done <= num_rounds_done:
            yield _load(evaluation_path(run_dir, done))


def _load(path: Path) -> Evaluation:
    arrays, texts = read_arrays(path)
    values = json.loads(texts["evaluation"])
    drawn = [
        GeneratedSamples(
            client_id,
            torch.from_numpy(arrays[f"{i}.features"]),
            arrays.get(f"{i}.histogram"),
            arrays[f"{i}.images"],
        )
        for i, client_id in enumerate(values["client_ids"])
    ]
    scores = [KidScore(**score) for score in values["scores"]]
    losses = [HeldoutLosses(**loss) for loss in values["losses"]]
    tv = None if values["tv"] is None else tuple(values["tv"])
    ids = tuple(values["client_ids"])
    return Evaluation(values["round_idx"], ids, tuple(scores), tv, tuple(losses), tuple(drawn))
