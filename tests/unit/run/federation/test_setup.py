"""Data that cannot be evaluated are refused before a run; who stands for a large population."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config.load import load_config
from pipeline.config.schema import Config
from pipeline.federation.setup import (
    NUM_REPRESENTATIVES,
    FederationSetup,
    first_participants,
    has_secret_cohorts,
    partitioned,
    prepare,
    public_representatives,
)
from spire_core.config.eval import OTHER_METRICS
from spire_core.errors import ConfigError, DataError
from spire_core.federated.participation import choose_cohort, responding_clients, secret_cohort
from spire_core.privacy.noise import SecretNoise, key_of

SMALL = ["partition=iid", "partition.client_size=40", "federation.num_clients=2"]
SMALL += ["federation.num_new_clients=1", "federation.cohort_size=2"]
LARGE = ("partition=independent", "partition.client_size=40", "federation.num_clients=100000")
PRIVATE = ("client.opt_state=reset", "client.engine=loop", "privacy.rounds.epsilon=8")


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


# --- a folder of the user's own, with as many images as the presets ask for ---


def photos(folder: Path, num_images: int, num_classes: int) -> str:
    """Make a folder of images, a subfolder for each class, and return its setting."""
    for i in range(num_images):
        path = folder / f"class{i % num_classes}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), i).save(path)
    return f"data.path={folder}"


@pytest.mark.parametrize("num_classes", [3, 7])
def test_250_images_are_enough_for_folder_cpu(tmp_path: Path, num_classes: int) -> None:
    _, partition = partitioned(load_config("folder-cpu", [photos(tmp_path, 250, num_classes)]))
    assert len(partition.client_ids) == 8


def test_too_few_images_are_counted_where_clients_come_from(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"at least 20 images for each of 8 clients.* got 158"):
        partitioned(load_config("folder-cpu", [photos(tmp_path, 200, 3)]))


# --- the clients that stand for all ---


def config_for(*words: str) -> Config:
    return load_config("smoke", [*LARGE, "federation.num_rounds=40", *words])


def test_public_cohorts_follow_from_the_seed_and_small_populations_stand_for_themselves() -> None:
    config = config_for()
    cohorts = [choose_cohort(100_000, 4, config.seed, round_idx) for round_idx in range(40)]
    expected = [client for cohort in cohorts for client in cohort]
    assert public_representatives(config) == expected[:NUM_REPRESENTATIVES]
    assert public_representatives(config_for("eval.num_clients=150")) == expected[:150]
    small = config_for("federation.num_clients=1000")
    assert public_representatives(small) == list(range(1000))
    large = config_for("federation.num_clients=1001")
    assert len(public_representatives(large)) == NUM_REPRESENTATIVES


@pytest.mark.parametrize("drop_rate", [0.0, 0.5])
def test_secret_cohorts_follow_from_the_key(drop_rate: float) -> None:
    config = config_for(*PRIVATE, f"federation.drop_rate={drop_rate}")
    noise, other = (SecretNoise(key_of(text)) for text in "kl")
    found = first_participants(config, lambda r: secret_cohort(100_000, 4, noise, r))
    cohorts = [secret_cohort(100_000, 4, noise, round_idx) for round_idx in range(40)]
    assert {len(cohort) for cohort in cohorts} > {2, 3, 4, 5}
    chances = (drop_rate, config.seed)
    there = [responding_clients(c, *chances, r, True) for r, c in enumerate(cohorts)]
    pairs = zip(cohorts, there, strict=True)
    assert any(cohort and not some for cohort, some in pairs) == (drop_rate > 0)
    assert found == [client for some in there for client in some][: len(found)]
    assert len(found) == min(NUM_REPRESENTATIVES, sum(map(len, there)))
    others = first_participants(config, lambda r: secret_cohort(100_000, 4, other, r))
    assert len(set(found) & set(others)) < 5


def test_cohorts_of_all_clients_are_no_secret() -> None:
    assert not has_secret_cohorts(config_for())
    assert not has_secret_cohorts(load_config("smoke", [*PRIVATE, "federation.cohort_size=6"]))
    assert has_secret_cohorts(load_config("smoke", [*PRIVATE]))
