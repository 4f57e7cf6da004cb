"""Scores against images of the test split: their images, and all that stays with held-out ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import finished, small

from pipeline.clients.worker import ClientWorker
from pipeline.config.load import load_config
from pipeline.evaluation.scores import RealData
from pipeline.federation.messages import WorkerSetup
from pipeline.federation.pool import LocalClientPool
from pipeline.federation.setup import FederationSetup, prepare
from pipeline.inference.arrival import adapt_arrival
from pipeline.inference.arrival_images import ArrivingImages
from pipeline.inference.saved_run import SavedRun
from pipeline.results.result import Result
from pipeline.results.tables import new_clients
from spire_core.evaluation.reference_split import reference_counts
from spire_core.training.fit import to_float

REFERENCES = ("heldout", "test_split")
# Of new clients, what a reference makes a difference to; their durations differ by themselves.
SCORES = {"kid_before", "kid_after", "kid_after_std", "kid_floor", "kid_floor_std", "num_real"}
SCORES |= {"forgetting_own", "kid_copies", "kid_fresh", "kid_nearest_draws"}


def words(mnist_root: Path, reference: str) -> list[str]:
    return [f"data.root={mnist_root}", "resources.pool=local", f"eval.reference={reference}"]


def opened(mnist_root: Path, folder: Path, reference: str) -> tuple[FederationSetup, ClientWorker]:
    setting = prepare(load_config("smoke", words(mnist_root, reference)))
    parts = (setting.mixtures, setting.partition, setting.extractor, folder, None, None)
    setup = WorkerSetup(setting.config, *parts, setting.reference)
    return setting, ClientWorker(setup, setting.images)


def gathered(setting: FederationSetup, worker: ClientWorker) -> RealData:
    return RealData.gather(LocalClientPool(worker), setting)


def test_a_reference_has_the_clients_mixture_out_of_the_test_split(
    mnist_root: Path, tmp_path: Path
) -> None:
    setting, worker = opened(mnist_root, tmp_path, "test_split")
    assert setting.reference is not None
    at = {image.tobytes(): i for i, image in enumerate(setting.reference.images)}
    held = np.bincount(setting.reference.labels)
    real = gathered(setting, worker)
    for client_id, features in real.features.items():
        images = worker.client_data(client_id).reference_images(setting.config.seed)
        labels = setting.reference.labels[[at[image.numpy().tobytes()] for image in images]]
        positions = setting.reference_positions(client_id)
        assert torch.equal(images, torch.from_numpy(setting.reference.images[positions]))
        counts = reference_counts(setting.mixtures[client_id], held)
        assert np.bincount(labels, minlength=10).tolist() == counts.tolist()
        assert torch.equal(features, worker.evaluator.extractor.features(to_float(images)))


def test_held_out_images_are_the_reference_unless_a_test_split_is(
    mnist_root: Path, tmp_path: Path
) -> None:
    (setting, own), (_, other) = (opened(mnist_root, tmp_path, name) for name in REFERENCES)
    for client_id in setting.new_ids:
        images = setting.images[setting.reference_positions(client_id)]
        assert np.array_equal(own.client_data(client_id).reference_images(0).numpy(), images)
        assert torch.equal(own.reference_features(client_id), own.real_features(client_id))
        assert torch.equal(own.real_features(client_id), other.real_features(client_id))
        assert not torch.equal(
            other.reference_features(client_id)[:8], other.real_features(client_id)[:8]
        )


@pytest.fixture(scope="module")
def results(mnist_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    """A run with each reference."""
    more = ("adapt.epochs=2", "eval.num_images=64", "eval.controls=true")
    return [
        finished(small(mnist_root, tmp_path_factory.mktemp(r), f"eval.reference={r}", *more))
        for r in REFERENCES
    ]


def rows_of(result: Result) -> list[dict[str, Any]]:
    rows = new_clients(result.adaptation, result.real, 1000).to_dict("records")
    return [
        row
        | {f"kid_{name}": one.kid for name, one in own.items()}
        | {f"{score}_{name}": v for name, one in own.items() for score, v in one.scores.items()}
        for row, own in zip(rows, result.adaptation.image_controls, strict=True)
    ]


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
