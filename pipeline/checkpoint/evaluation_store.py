"""Evaluations of pre-training on disk, one file each, so that a resumed run need not repeat them.

`evaluations/<rounds done>.safetensors` holds features, class histograms and images as
`<position>.features` and so on. An array that several clients have in common, as those that draw
alike do, is there once, under the first of them. The header holds the scores as JSON, the names of
the others with that name (`aliases`), and the SHA-256 of everything.
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

KINDS = ("features", "histogram", "images")  # of arrays of `GeneratedSamples`


def save_evaluation(run_dir: Path, evaluation: Evaluation) -> None:
    """Write one evaluation atomically, replacing an earlier one of the same round."""
    tensors, aliases = dict[str, Tensor](), dict[str, str]()
    names = dict[int, str]()  # by identity
    for i, drawn in enumerate(evaluation.drawn):
        for kind in KINDS:
            array, name = getattr(drawn, kind), f"{i}.{kind}"
            if array is None:
                continue
            if (first := names.setdefault(id(array), name)) != name:
                aliases[name] = first
            else:
                is_tensor = isinstance(array, Tensor)
                tensors[name] = array.clone() if is_tensor else torch.tensor(array)
    scores = {
        "round_idx": evaluation.round_idx,
        "client_ids": evaluation.client_ids,
        "scores": [dataclasses.asdict(score) for score in evaluation.scores],
        "tv": evaluation.tv,
        "losses": [dataclasses.asdict(loss) for loss in evaluation.losses],
        "aliases": aliases,
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
        ids, aliases = tuple(scores["client_ids"]), scores.get("aliases", {})
        named = tensors | {name: tensors[first] for name, first in aliases.items()}
        return Evaluation(
            scores["round_idx"],
            ids,
            tuple(KidScore(**score) for score in scores["scores"]),
            None if scores["tv"] is None else tuple(scores["tv"]),
            tuple(HeldoutLosses(**loss) for loss in scores["losses"]),
            tuple(_drawn(named, i, client_id) for i, client_id in enumerate(ids)),
        )


def _drawn(named: dict[str, Tensor], i: int, client_id: int) -> GeneratedSamples:
    histogram = named.get(f"{i}.histogram")
    return GeneratedSamples(
        client_id,
        named[f"{i}.features"],
        None if histogram is None else histogram.numpy(),
        np.asarray(named[f"{i}.images"]),
    )
