"""Each known failure provoked on purpose, a healthy run that shows none, and the rules by hand."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from pipeline.cli.texts import result_table
from pipeline.clients.store import ClientStore
from pipeline.config.load import load_config
from pipeline.config.tracking import TrackingConfig, tracking_uri
from pipeline.evaluation.diagnosis import (
    DIVERGING,
    IGNORED,
    INCONSISTENT,
    NOT_LEARNING,
    OVERFITTING,
    UNCOVERED,
    adaptation_diagnosis,
    backbone_diagnosis,
    consistency_diagnosis,
    diagnose,
    embedding_diagnosis,
    heldout_rise,
    jitter,
    kid_rise,
    own_is_best,
)
from pipeline.experiment.run import run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.results.files import result_json
from pipeline.results.result import Result
from pipeline.runs.layout import CLIENTS
from spire_core.adaptation.adapt import AdaptPoint
from spire_core.errors import DivergenceError
from spire_core.methods import CLIENT_EMB

# --- rules, by hand -------------------------------------------------------------------------------

FALLING = [1.0] * 10 + [0.5] * 10 + [0.25] * 10


def course(
    losses: list[float], heldout: list[float], kids: list[float], every: int = 10
) -> str | None:
    """The diagnosis of scores that are equal for 3 clients, evaluated every 10 rounds."""
    values = [np.repeat(np.array(v)[:, None], 3, axis=1) for v in (heldout, kids)]
    found = backbone_diagnosis(losses, [every * i for i in range(len(heldout))], *values)
    return None if found is None else found.name


def test_a_backbone_has_to_fall_by_a_tenth() -> None:
    assert course(FALLING, [1.0, 0.899], [40.0, 35.9]) is None
    assert course([1.0] * 30, [1.0, 1.0], [40.0, 40.0]) == NOT_LEARNING
    assert course(FALLING, [1.0, 0.901], [40.0, 1.0]) == NOT_LEARNING
    assert course(FALLING, [1.0, 0.5], [40.0, 36.1]) == NOT_LEARNING
    assert course([1.0] * 9, [1.0, 1.0], [40.0, 40.0], every=9) is None  # too short to say
    assert course(FALLING, [1.0, 0.5], [np.nan, np.nan]) is None
    # A training loss that is private: the scores decide.
    assert course([], [1.0, 1.0], [40.0, 40.0]) == NOT_LEARNING
    assert course([], [1.0, 1.11], [40.0, 40.0]) == DIVERGING
    assert course([], [1.0, 0.5], [40.0, 1.0]) is None


def test_a_training_loss_that_rises_again_is_divergence() -> None:
    rising = [*FALLING, *[0.28] * 10]
    assert course(rising, [1.0, 0.3], [9.0, 1.0]) == DIVERGING
    assert course([*FALLING, *[0.27] * 10], [1.0, 0.3], [9.0, 1.0]) is None  # 8 % above
    noisy = [*FALLING, *[0.1, 0.5, 0.1, 0.5, 0.2] * 2]  # mean 0.28 as above, standard error 0.09
    assert course(noisy, [1.0, 0.3], [9.0, 1.0]) is None


def test_worse_than_untrained_and_a_kid_that_comes_back_are_divergence() -> None:
    assert course(FALLING, [1.0, 1.11], [40.0, 40.0]) == DIVERGING
    assert course(FALLING, [1.0, 0.3, 0.3], [41.0, 1.0, 5.1]) == DIVERGING
    assert course(FALLING, [1.0, 0.3, 0.3], [41.0, 1.0, 4.9]) is None  # under a tenth of its fall
    kids = np.array([[41.0, 41.0], [1.0, 1.0], [1.0, 19.0]])  # one client alone: noise
    heldout = np.array([[1.0, 1.0], [0.3, 0.3], [0.3, 0.3]])
    assert backbone_diagnosis(FALLING, [0, 10, 20], heldout, kids) is None


def test_a_diagonal_dominates_if_no_other_part_is_clearly_better() -> None:
    matrix = np.full((4, 4), 1.5) - 0.5 * np.eye(4)
    matrix[0, 1], matrix[2, 3] = 0.996, 0.9
    assert own_is_best(matrix).tolist() == [True, True, False, True]
    assert consistency_diagnosis(matrix, [4, 5, 6, 7]) is None  # one of four
    found = consistency_diagnosis(np.roll(matrix, 1, axis=1), [4, 5, 6, 7])
    assert found is not None
    assert found.name == INCONSISTENT
    assert consistency_diagnosis(np.array([[1.0]]), [4]) is None


def test_an_embedding_is_ignored_if_what_it_changes_is_little_or_noise() -> None:
    own = np.array([0.1, 0.3, 0.2])
    signs = np.array([1.0, -1.0, 0.5])
    found = embedding_diagnosis(own, own + 0.001 * signs, own)
    assert found is not None
    assert found.name == IGNORED
    assert embedding_diagnosis(own, own + 0.002 * signs, own) is None  # 0.8 %, if not of use
    assert embedding_diagnosis(own, own, own + 0.0005) is None  # all of them by a quarter of 1 %
    assert embedding_diagnosis(own, own, own + 0.0003) is not None
    assert embedding_diagnosis(own, own, own - 0.0005) is not None  # it does harm: noise, then


def test_jitter_is_the_noise_and_not_the_trend() -> None:
    epochs = np.arange(4000.0)
    assert jitter((3.0 - 0.1 * epochs).tolist()) == pytest.approx(0, abs=1e-9)
    noise = np.random.default_rng(0).normal(0, 0.2, 4000)
    assert jitter((noise - 0.01 * epochs).tolist()) == pytest.approx(0.2, rel=0.05)
    assert jitter([1.0, 2.0]) == 0.0


def by_epoch(means: list[float], spread: float) -> Mapping[int, torch.Tensor]:
    """Losses on 100 images; half of them are `spread` further up in the last epoch, half down."""
    signs = torch.tensor([1.0, -1.0]).repeat(50)
    losses = {epoch: torch.full((100,), mean).double() for epoch, mean in enumerate(means)}
    losses[len(means) - 1] += spread * signs
    return losses


def test_a_heldout_loss_rises_by_more_than_its_noise() -> None:
    rising = [1.0, 0.8, 0.6, 0.7, 0.8]
    assert heldout_rise(by_epoch(rising, 0.1), 4) is not None
    assert heldout_rise(by_epoch(rising, 0.7), 4) is None  # standard error 0.07
    assert heldout_rise(by_epoch(rising, 0.1), 2) is None  # the best was kept
    assert heldout_rise(by_epoch([1.0, 0.8, 0.6, 0.61], 0.0), 3) is None  # under 2 %
    assert heldout_rise(by_epoch([0.6, 0.8, 0.8], 0.0), 2) is None  # too short to say


def spread(means: list[float], std: float) -> dict[int, tuple[float, float]]:
    return {epoch: (mean, std) for epoch, mean in enumerate(means)}


def test_a_kid_rises_by_more_than_its_noise() -> None:
    curve = [5.0, 3.0, 1.0, 2.0, 3.0]
    assert kid_rise(spread(curve, 0.4), (3.0, 0.4)) is not None
    assert kid_rise(spread(curve, 0.5), (3.0, 0.5)) is None  # 3 hypot(0.5, 0.5) = 2.1
    assert kid_rise(spread(curve, 0.0), (1.39, 0.0)) is None  # under a tenth of its fall
    assert kid_rise(spread(curve, 0.0), (1.0, 0.0)) is None  # the best was kept
    jumpy = [5.0, 3.0, 4.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0]
    assert kid_rise(spread(jumpy, 0.0), (2.0, 0.0)) is None


# --- failures provoked in real training -----------------------------------------------------------

FEW_CLIENTS = ("federation.num_clients=2", "federation.cohort_size=2", "federation.tau=10")
# One class each, until the tiny network uses its embedding.
NUM_ROUNDS, NUM_CLIENTS = 28, 3
APART = ("partition.classes_per_client=1", "federation.num_clients=3", "federation.cohort_size=3")
APART += ("federation.tau=4", "client.group_size=3", "client.batch_size=8")
APART += ("client.lr=0.005", "client.emb_lr=0.3")


def run(
    mnist_root: Path, root: Path, num_rounds: int, *overrides: str, pretrained: Path | None = None
) -> Result:
    settings = [
        f"data.root={mnist_root}",
        f"tracking.root={root}",
        "tracking.enabled=false",
        "tracking.log_model=false",
        "resources.pool=local",
        f"federation.num_rounds={num_rounds}",
        "federation.num_new_clients=1",
        "eval.every=0",
        "eval.num_images=16",
        "eval.num_loss_images=32",
        "diffusion.sample_steps=3",
        "adapt.epochs=1",
        *overrides,
    ]
    return run_experiment(load_config("smoke", settings), "smoke", Watcher(), pretrained=pretrained)


def names(result: Result) -> list[str]:
    return [diagnosis.name for diagnosis in result.diagnoses]


@pytest.fixture(scope="module")
def healthy(mnist_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    root = tmp_path_factory.mktemp("healthy")
    return run(mnist_root, root, NUM_ROUNDS, *APART, "adapt.epochs=4")


def test_a_healthy_run_has_no_diagnosis(healthy: Result) -> None:
    """Own losses on the diagonal and the next client's embedding beside it, bit for bit."""
    assert result_json(healthy, "smoke")["diagnoses"] == []
    assert healthy.cross_losses is not None
    assert [*healthy.cross_losses.index] == [*range(NUM_CLIENTS)]
    matrix, losses = healthy.cross_losses.values, healthy.pretraining.evaluations[-1].losses
    for i, loss in enumerate(losses):
        assert (matrix[i, i], matrix[i, (i + 1) % NUM_CLIENTS]) == (loss.own, loss.swapped)
    assert own_is_best(matrix).all()
    [report] = healthy.adaptation.reports
    assert sorted(report.heldout) == list(range(5))
    for point in report.curve:
        assert point.observed is not None
        assert float(report.heldout[point.epoch].mean()) == point.observed["heldout_loss"]


def test_clients_that_get_each_others_embeddings_are_inconsistent(
    healthy: Result, mnist_root: Path, tmp_path: Path
) -> None:
    mixed = tmp_path / "runs" / "mixed"
    shutil.copytree(healthy.run_dir, mixed)
    store = ClientStore(mixed / CLIENTS)
    seen = store.rounds_seen(NUM_ROUNDS)
    states = [store.load(client_id) for client_id in range(NUM_CLIENTS)]
    for client_id, state in enumerate(states):
        other = states[(client_id + 1) % NUM_CLIENTS]
        assert state is not None
        assert other is not None
        parts = {**state.parts, CLIENT_EMB: other.parts[CLIENT_EMB]}
        store.save(client_id, seen[client_id], replace(state, parts=parts))
    result = run(mnist_root, tmp_path, NUM_ROUNDS, *APART, pretrained=mixed)
    assert names(result) == [INCONSISTENT]
    assert result.cross_losses is not None
    assert healthy.cross_losses is not None
    expected = np.roll(healthy.cross_losses.values, -1, axis=1)
    np.testing.assert_array_equal(result.cross_losses.values, expected)


def test_a_client_that_no_old_one_is_like_is_not_called_over_fitted() -> None:
    """Its loss falls and its KID rises, unless old clients hold its classes."""

    def named(kid: float, loss: float, known: tuple[int, ...] = (), rounds: int = 50) -> str | None:
        observed = [{"own_kid": one, "own_kid_std": 0.1} for one in (1.0, kid)]
        report: Any = SimpleNamespace(
            client_id=7,
            guidance=None,
            kept_epoch=4,
            curve=[AdaptPoint(i, None, None, one) for i, one in zip((0, 4), observed, strict=True)],
            scores_after=observed[1],
            heldout={0: torch.full((4,), 0.5), 4: torch.full((4,), loss)},
        )
        config = load_config("smoke", [f"federation.num_rounds={rounds}"])
        found = adaptation_diagnosis([report], config, {7: "bob"}.__getitem__, known)
        assert found is None or "bob's held-out loss fell from 0.5 to 0.4" in found.evidence
        return found and found.name

    assert named(1.5, 0.4) == UNCOVERED
    assert [named(1.2, 0.4), named(1.5, 0.5), named(1.5, 0.4, (7,))] == [None] * 3
    assert named(1.5, 0.4, rounds=5) is None


@pytest.mark.slow
def test_fine_tuning_on_four_images_is_over_fitted(
    mnist_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """First a new client with enough of them, on the same backbone."""
    method = ("method=fedavg_ft", "client.lr=0.005", *FEW_CLIENTS)
    method += ("eval.num_loss_images=64", "diffusion.sample_steps=6")
    enough = run(mnist_root, tmp_path, 24, *method, "adapt.epochs=4")
    assert names(enough) == []
    assert enough.cross_losses is None
    few = ("adapt.num_images=4", "adapt.batch_size=4", "adapt.lr=0.005")
    few += ("adapt.epochs=600", "adapt.eval_every=40")
    result = run(mnist_root, tmp_path, 24, *method, *few, pretrained=enough.run_dir)
    assert names(result) == [OVERFITTING]
    evidence = result.diagnoses[0].evidence
    [logged] = [record.getMessage() for record in caplog.records]
    assert evidence in logged
    assert evidence in result_table(result)
    [told] = result_json(result, "smoke")["diagnoses"]
    assert (told["name"], told["evidence"]) == (OVERFITTING, evidence)


@pytest.mark.slow
def test_an_embedding_that_does_not_train_is_ignored_unless_clients_are_alike(
    mnist_root: Path, tmp_path: Path
) -> None:
    tiny = ("client.emb_lr=0", "client.emb_init_std=0.001", *FEW_CLIENTS)
    result = run(mnist_root, tmp_path, 11, *tiny)
    assert names(result) == [IGNORED]
    alike = dict.fromkeys(result.real.mixtures, np.full(10, 0.1))
    course = (result.pretraining.losses, result.pretraining.evaluations)
    records = (*course, result.cross_losses, result.adaptation.reports)
    assert [d.name for d in diagnose(result.setting, result.real, *records)] == [IGNORED]
    assert diagnose(result.setting, replace(result.real, mixtures=alike), *records) == ()


@pytest.mark.slow
def test_a_backbone_that_does_not_move_is_named_in_mlflow(
    mnist_root: Path, tmp_path: Path, new_database: Path
) -> None:
    shutil.copy(new_database, tmp_path)
    tracking = TrackingConfig(root=str(tmp_path), uri=f"sqlite:///{tmp_path}/mlflow.db")
    tracked = ("tracking.enabled=true", f"tracking.uri={tracking.uri}")
    result = run(mnist_root, tmp_path, 10, "client.lr=0", *tracked)
    assert names(result) == [NOT_LEARNING]
    client = MlflowClient(tracking_uri(tracking))
    tags = client.get_run(result.run_id).data.tags
    assert (tags["spire.diagnosis"], tags["spire.own_is_best"]) == (NOT_LEARNING, "6/6")
    assert f"- diagnosis: {NOT_LEARNING} (try more" in tags["mlflow.note.content"]
    stored = client.download_artifacts(result.run_id, "diagnoses.json", str(tmp_path))
    assert json.loads(Path(stored).read_text()) == {"diagnoses": [result.diagnoses[0].as_dict()]}
    with pytest.raises(DivergenceError, match="a loss of nan"):
        run(mnist_root, tmp_path, 10, "client.lr=1000", *tracked)
    [failed] = client.search_runs(
        [client.get_run(result.run_id).info.experiment_id], "attributes.status = 'FAILED'"
    )
    assert failed.data.tags["spire.diagnosis"] == DIVERGING
