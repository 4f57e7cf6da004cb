"""Scores against images of the test split: their images, and all that stays with held-out ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import finished, small

from pipeline.inference.arrival import adapt_arrival
from pipeline.inference.arrival_images import ArrivingImages
from pipeline.inference.saved_run import SavedRun
from pipeline.results.result import Result
from pipeline.results.tables import new_clients
from spire_core.evaluation.extractors import make_extractor
from spire_core.evaluation.reference_split import reference_counts
from spire_core.training.fit import to_float

REFERENCES = ("heldout", "test_split")
# Of new clients, what a reference makes a difference to; their durations differ by themselves.
SCORES = {"kid_before", "kid_after", "kid_after_std", "kid_floor", "kid_floor_std", "num_real"}
SCORES |= {"forgetting_own", "kid_copies", "kid_fresh", "kid_nearest_draws"}


@pytest.fixture(scope="module")
def results(mnist_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    """A run with each reference."""
    more = ("adapt.epochs=2", "eval.num_images=64", "eval.controls=true")
    more += ("partition=independent", "partition.client_size=250")
    return [
        finished(small(mnist_root, tmp_path_factory.mktemp(r), f"eval.reference={r}", *more))
        for r in REFERENCES
    ]


def rows_of(result: Result) -> list[dict[str, Any]]:
    rows = new_clients(result.adaptation, result.real, 20).to_dict("records")
    return [
        row
        | {f"kid_{name}": one.kid for name, one in own.items()}
        | {f"{score}_{name}": v for name, one in own.items() for score, v in one.scores.items()}
        for row, own in zip(rows, result.adaptation.image_controls, strict=True)
    ]


def test_a_reference_has_the_clients_mixture_out_of_the_test_split(results: list[Result]) -> None:
    setting, extractor = results[1].setting, make_extractor("mnist-cnn")
    assert setting.reference is not None
    held = np.bincount(setting.reference.labels)
    for client_id, features in results[1].real.features.items():
        positions = setting.reference_positions(client_id)
        labels = setting.reference.labels[positions]
        counts = reference_counts(setting.mixtures[client_id], held)
        assert np.bincount(labels, minlength=10).tolist() == counts.tolist()
        images = to_float(torch.from_numpy(setting.reference.images[positions]))
        torch.testing.assert_close(features, extractor.features(images))


def test_it_changes_kid_and_nothing_else(results: list[Result]) -> None:
    own, other = results
    assert own.state_fingerprint == other.state_fingerprint
    for before, after in zip(rows_of(own), rows_of(other), strict=True):
        assert before["num_real"] < after["num_real"]
        differing = {key for key in before if before[key] != after[key]} - {
            "fit_duration_s",
            "duration_s",
        }
        assert differing <= SCORES | {key for key in before if key.startswith(("fld", "novel_kid"))}
        assert differing >= SCORES - {"forgetting_own", "num_real"}
        assert "novel_kid_after" in after
    for before, after in zip(*(one.pretraining.evaluations for one in results), strict=True):
        assert before.losses == after.losses
        assert all(a != b for a, b in zip(before.scores, after.scores, strict=True))


def test_a_client_that_arrives_later_is_scored_by_its_own_images(results: list[Result]) -> None:
    images = ArrivingImages(results[0].setting.images[:60], results[0].setting.mixtures[0])
    runs = [SavedRun.load(result.run_dir) for result in results]
    assert [run.config.eval.reference for run in runs] == list(REFERENCES)
    curves = [adapt_arrival(run, images, run.config.adapt).curve for run in runs]
    assert curves[0] == curves[1]
