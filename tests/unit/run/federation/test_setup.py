"""Data that cannot be evaluated are refused before a run begins."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.config.load import load_config
from pipeline.federation.setup import FederationSetup, prepare
from spire_core.config.eval import OTHER_METRICS
from spire_core.errors import ConfigError, DataError

SMALL = ["partition=iid", "partition.client_size=40", "federation.num_clients=2"]
SMALL += ["federation.num_new_clients=1", "federation.cohort_size=2"]


def test_four_test_images_are_enough_for_the_floor_and_three_are_not(mnist_root: Path) -> None:
    words = [*SMALL, f"data.root={mnist_root}"]
    with pytest.raises(DataError, match=r"at least 4 real images .* got 3 for client 0"):
        prepare(load_config("smoke", [*words, "partition.test_fraction=0.075"]))
    setup = prepare(load_config("smoke", [*words, "partition.test_fraction=0.1"]))
    assert [len(setup.partition.split(c).test) for c in (0, 1, 2)] == [4, 4, 4]


def test_a_metric_of_another_package_that_fails_does_so_before_the_run(
    mnist_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OTHER_METRICS, "_found", {})
    OTHER_METRICS.register("odd", lambda drawn, real: None, "0")
    with pytest.raises(TypeError):
        prepare(load_config("smoke", [f"data.root={mnist_root}", "eval.metrics=[odd]"]))


def test_clients_draw_in_styles_of_their_own(mnist_root: Path) -> None:
    def made(style: str) -> FederationSetup:
        words = [*SMALL, f"data.root={mnist_root}", f"partition.style={style}"]
        return prepare(load_config("smoke", words))

    plain, stroked, tinted = map(made, ("none", "stroke", "tint"))
    assert plain.partition.hash == stroked.partition.hash == tinted.partition.hash
    own = plain.partition.split(1).train
    assert (plain.images[own] != stroked.images[own]).any()
    assert (tinted.images.shape[1], tinted.extractor) == (3, "cifar10-cnn")
    assert (stroked.images.shape[1], stroked.extractor) == (1, "mnist-cnn")
    assert tinted.model.layout.size > plain.model.layout.size  # three channels go in and out


def test_heldout_images_are_like_training_images_where_chance_alone_splits(
    fonts_root: Path,
) -> None:
    words = [f"data.root={fonts_root}", "data=fonts", "data.image_size=16", "partition=natural"]
    words += ["federation.num_clients=2", "federation.num_new_clients=1"]
    words += ["federation.cohort_size=2", "adapt.num_images=8", "eval.extractor=fonts-cnn"]
    plain = prepare(load_config("smoke", words))
    assert plain.splits_at_random
    for more in ("partition.hidden=[Q]", "partition.hidden_from_new=[Q]", "model.text=sentences"):
        assert not prepare(load_config("smoke", [*words, more])).splits_at_random, more
    clients = plain.data.clients
    assert clients is not None
    is_test = np.zeros(len(plain.data.labels), bool)
    named = replace(plain.data, clients=replace(clients, is_test=is_test))
    assert not replace(plain, data=named).splits_at_random


def test_a_round_of_one_step_has_no_second_phase(mnist_root: Path) -> None:
    words = [*SMALL, "federation.local_epochs=1", f"data.root={mnist_root}"]
    words += ["client.batch_size=32"]
    prepare(load_config("smoke", [*words, "method=shared_rep"]))
    alternate = [*words, "method=shared_rep", "method.phases=alternate"]
    with pytest.raises(ConfigError, match=r"at least 2 steps of .*, got 1 of one with 30 images"):
        prepare(load_config("smoke", alternate))
    prepare(load_config("smoke", [*alternate, "client.batch_size=29"]))
