"""Evaluations on disk: they come back as they were, and what clients share is there once."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from pipeline.checkpoint.evaluation_store import (
    evaluation_path,
    load_evaluations,
    save_evaluation,
)
from pipeline.evaluation.scores import Evaluation
from pipeline.federation.messages import GeneratedSamples, HeldoutLosses
from pipeline.files.tensors import read_tensors, write_tensors
from spire_core.evaluation.kid import KidScore

NUM_CLIENTS = 100


def evaluation_of(drawn: list[GeneratedSamples], round_idx: int = 4) -> Evaluation:
    ids = tuple(one.client_id for one in drawn)
    scores = tuple(KidScore(0.1 * i, 0.01, 30, 64, 10, 5) for i in ids)
    losses = tuple(HeldoutLosses(i, 0.5, None, 0.25 * i) for i in ids)
    return Evaluation(round_idx, ids, scores, (0.5,) * len(ids), losses, tuple(drawn))


def alike(num_clients: int) -> list[GeneratedSamples]:
    """Clients for all of whom the same draws stand."""
    rng = np.random.default_rng(0)
    features = torch.from_numpy(rng.normal(size=(64, 32)).astype(np.float32))
    histograms, images = rng.random((4, 10)), rng.random((8, 1, 8, 8)).astype(np.float32)
    return [GeneratedSamples(3 * i, features, histograms, images) for i in range(num_clients)]


def by_themselves(num_clients: int, histogram: np.ndarray | None) -> list[GeneratedSamples]:
    """Clients with samples of their own; they are parts of one array, as a group's are."""
    features, images = torch.randn(num_clients, 16, 8), torch.rand(num_clients, 4, 1, 8, 8)
    return [
        GeneratedSamples(i, features[i], histogram, images[i].numpy()) for i in range(num_clients)
    ]


def header_of(path: Path) -> dict[str, str]:
    """Scores, names and the hash of all arrays."""
    with safe_open(path, "pt") as file:
        return file.metadata()


def assert_same(found: Evaluation, expected: Evaluation) -> None:
    assert replace(found, drawn=()) == replace(expected, drawn=())
    for one, other in zip(found.drawn, expected.drawn, strict=True):
        assert one.client_id == other.client_id
        assert torch.equal(one.features, other.features)
        np.testing.assert_array_equal(one.images, other.images)
        assert (one.histogram is None) == (other.histogram is None)
        if one.histogram is not None and other.histogram is not None:
            np.testing.assert_array_equal(one.histogram, other.histogram)


@pytest.mark.parametrize(
    "drawn", [alike(3), by_themselves(3, None), by_themselves(2, np.arange(10.0))]
)
def test_an_evaluation_comes_back_as_it_was(drawn: list[GeneratedSamples], tmp_path: Path) -> None:
    evaluation = evaluation_of(drawn)
    save_evaluation(tmp_path, evaluation)
    header = header_of(evaluation_path(tmp_path, 4))
    [found] = load_evaluations(tmp_path, 4)
    assert_same(found, evaluation)
    save_evaluation(tmp_path, evaluation)
    assert header_of(evaluation_path(tmp_path, 4)) == header


def test_what_clients_share_is_stored_once(tmp_path: Path) -> None:
    save_evaluation(tmp_path, evaluation_of(alike(NUM_CLIENTS), 0))
    save_evaluation(tmp_path, evaluation_of(alike(1), 1))
    many, one = (evaluation_path(tmp_path, done).stat().st_size for done in (0, 1))
    assert many - one < NUM_CLIENTS * 500  # scores and names; the features alone are 8 KiB


def test_a_file_with_an_array_for_each_client_is_read_as_well(tmp_path: Path) -> None:
    evaluation, path = evaluation_of(alike(3)), evaluation_path(tmp_path, 4)
    save_evaluation(tmp_path, evaluation)
    tensors, texts = read_tensors(path)
    scores = json.loads(texts["evaluation"])
    for name, first in scores.pop("aliases").items():
        tensors[name] = tensors[first].clone()
    assert len(tensors) == 9
    write_tensors(path, tensors, evaluation=json.dumps(scores))
    [found] = load_evaluations(tmp_path, 4)
    assert_same(found, evaluation)


def test_features_can_be_left_out(tmp_path: Path) -> None:
    evaluation = evaluation_of(by_themselves(3, None))
    save_evaluation(tmp_path, evaluation.without_features())
    [found] = load_evaluations(tmp_path, 4)
    assert [one.features.shape for one in found.drawn] == [(0, 8)] * 3
    np.testing.assert_array_equal(found.drawn[2].images, evaluation.drawn[2].images)
