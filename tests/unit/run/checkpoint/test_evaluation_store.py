"""Evaluations on disk come back as they were."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.checkpoint.snapshots import load_evaluations, save_evaluation
from pipeline.evaluation.scores import Evaluation
from pipeline.federation.messages import GeneratedSamples, HeldoutLosses
from spire_core.evaluation.kid import KidScore


def evaluation_of(histogram: np.ndarray | None, round_idx: int = 4) -> Evaluation:
    """Clients with samples that are parts of one array, as a group's are."""
    features, images = torch.randn(3, 16, 8), torch.rand(3, 4, 1, 8, 8)
    ids = (0, 3, 6)
    drawn = [
        GeneratedSamples(client_id, features[i], histogram, images[i].numpy())
        for i, client_id in enumerate(ids)
    ]
    scores = tuple(KidScore(0.1 * i, 0.01, 30, 64, 10, 5) for i in ids)
    losses = tuple(HeldoutLosses(i, 0.5, None, 0.25 * i) for i in ids)
    return Evaluation(round_idx, ids, scores, (0.5,) * len(ids), losses, tuple(drawn))


@pytest.mark.parametrize("histogram", [None, np.arange(10.0)])
def test_an_evaluation_comes_back_as_it_was(histogram: np.ndarray | None, tmp_path: Path) -> None:
    evaluation = evaluation_of(histogram)
    save_evaluation(tmp_path, replace(evaluation_of(None, 2), tv=None))
    save_evaluation(tmp_path, evaluation)
    save_evaluation(tmp_path, evaluation_of(None, 6))
    earlier, found = load_evaluations(tmp_path, 4)
    assert (earlier.round_idx, earlier.tv) == (2, None)
    assert replace(found, drawn=()) == replace(evaluation, drawn=())
    for one, other in zip(found.drawn, evaluation.drawn, strict=True):
        assert one.client_id == other.client_id
        assert torch.equal(one.features, other.features)
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.histogram, other.histogram)


def test_features_can_be_left_out(tmp_path: Path) -> None:
    evaluation = evaluation_of(None)
    save_evaluation(tmp_path, evaluation.without_features())
    [found] = load_evaluations(tmp_path, 4)
    assert [one.features.shape for one in found.drawn] == [(0, 8)] * 3
    np.testing.assert_array_equal(found.drawn[2].images, evaluation.drawn[2].images)
