"""What a whole experiment says about its new clients, in one process on real MNIST."""

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config import load_config
from pipeline.datasets import load_stored
from pipeline.experiment import Result, run_experiment
from pipeline.progress import Quiet
from pipeline.summary import new_client_row, summary_metrics


def stopped_early(mnist_root: Path, root: Path, eval_every: int) -> Result:
    config = load_config(
        "smoke",
        [
            f"data.root={mnist_root}",
            f"tracking.root={root}",
            "tracking.enabled=false",
            "resources.pool=local",
            "federation.num_rounds=2",
            "eval.every=0",
            "eval.num_images=8",
            "adapt.epochs=6",
            "method=fedavg_ft",
            "adapt.lr=0.3",  # far too high: an early epoch is the best
            "adapt.early_stopping=true",
            "adapt.patience=3",
            f"adapt.eval_every={eval_every}",
        ],
    )
    return run_experiment(config, None, Quiet())


def test_a_new_clients_row_is_about_the_state_that_was_kept(
    mnist_root: Path, tmp_path: Path
) -> None:
    seldom = stopped_early(mnist_root, tmp_path, eval_every=100)
    always = stopped_early(mnist_root, tmp_path, eval_every=1)
    for i, report in enumerate(always.reports):
        kept = report.adapted.kept_epoch
        assert kept < report.adapted.curve[-1].epoch
        observed = report.adapted.curve[kept].observed
        assert observed is not None
        for result in (seldom, always):
            row = new_client_row(result, i)
            assert row["kid_after"] == observed["own_kid"]
            assert row["tv_after"] == observed["tv"]
            assert row["heldout_after"] == observed["heldout_loss"]


def test_a_folder_of_images_runs_to_the_end_with_another_data_sets_features(
    mnist_root: Path, tmp_path: Path
) -> None:
    stored = load_stored("mnist", mnist_root, "test")
    for label, name in enumerate(("zero", "one", "two", "three")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in np.flatnonzero(stored.labels == label)[:60]:
            image = Image.fromarray(stored.images[i, 0]).convert("RGB")
            image.save(tmp_path / "photos" / name / f"{i}.png")
    config = load_config(
        "smoke",
        [
            "data=folder",
            f"data.path={tmp_path / 'photos'}",
            "eval.extractor=cifar10-cnn",
            "eval.num_images=8",
            "eval.every=0",
            "federation.num_clients=3",
            "federation.num_new_clients=1",
            "federation.cohort_size=2",
            "federation.num_rounds=2",
            "adapt.epochs=1",
            f"tracking.root={tmp_path}",
            "tracking.enabled=false",
            "resources.pool=local",
        ],
    )
    result = run_experiment(config, None, Quiet())
    row = new_client_row(result, 0)
    assert row["tv_after"] is None  # that classifier knows none of these classes
    assert np.isfinite(row["kid_after"])
    assert "final/adapt_tv_after" not in summary_metrics(result)


def two_rounds(mnist_root: Path, root: Path, *overrides: str) -> Result:
    config = load_config(
        "smoke",
        [
            f"data.root={mnist_root}",
            f"tracking.root={root}",
            "tracking.enabled=false",
            "resources.pool=local",
            "federation.num_rounds=2",
            "eval.every=0",
            "eval.num_images=8",
            "adapt.epochs=1",
            *overrides,
        ],
    )
    return run_experiment(config, None, Quiet())


def test_a_network_with_dropout_trains_as_a_loop_and_says_so(
    mnist_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    loop = two_rounds(mnist_root, tmp_path, "model.dropout=0.1")
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        grouped = two_rounds(mnist_root, tmp_path, "model.dropout=0.1", "client.engine=grouped")
    assert len([r for r in caplog.records if "computed as loop" in r.message]) == 1
    assert grouped.state_fingerprint == loop.state_fingerprint


def test_groups_learn_what_the_loop_learns(mnist_root: Path, tmp_path: Path) -> None:
    """A whole experiment: not the same bits, but the same losses to four digits."""
    loop = two_rounds(mnist_root, tmp_path, "client.engine=loop")
    grouped = two_rounds(mnist_root, tmp_path, "client.engine=grouped", "client.group_size=3")
    assert grouped.state_fingerprint != loop.state_fingerprint
    name = "final/adapt_heldout_after"
    assert grouped.metrics[name] == pytest.approx(loop.metrics[name], rel=1e-4)
