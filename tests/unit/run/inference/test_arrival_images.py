"""The images of a client that arrives: of a folder, or of a data set of another package."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config.data import OTHER_DATASETS, DataConfig
from pipeline.config.schema import Config
from pipeline.data.outside import OutsideImages
from pipeline.inference.arrival import _split as arrival_split
from pipeline.inference.arrival import adapt_arrival, check_arrival
from pipeline.inference.arrival_images import ArrivingImages, held_back, load_arrival
from pipeline.inference.saved_run import SavedRun
from spire_core.config.adapt import AdaptConfig
from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.eval import EvalConfig
from spire_core.config.model import ModelConfig
from spire_core.config.partition import PartitionConfig
from spire_core.errors import ConfigError, DataError
from spire_core.network.flat_model import FlatModel

SMALL = ModelConfig(4, 8, (1,), attention=(), cond_dim=8)


def saved(folder: Path, config: Config) -> SavedRun:
    """A run with a network of zeros, of images of 8 x 8 of a class "a"."""
    model = FlatModel(config.model, config.method, 1)
    return SavedRun(folder, config, (1, 8, 8), ("a",), model, torch.zeros(model.layout.size))


def paint(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8)).save(file)


def test_the_top_folder_of_an_image_is_its_class(tmp_path: Path) -> None:
    run = saved(tmp_path, Config(model=SMALL))
    for name in ("a/2024/may/0.png", "a/1.png", "b/2024/2.png", "3.png"):
        paint(tmp_path / "new" / name)
    assert len(load_arrival(run, str(tmp_path / "new")).images) == 4
    own = load_arrival(run, str(tmp_path / "new"), ["a"])
    assert (len(own.images), own.mixture) == (2, np.ones(1))
    with pytest.raises(ConfigError, match="expected classes out of a, b, got '2024'"):
        load_arrival(run, str(tmp_path / "new"), ["2024"])
    for name in ("train/a/4.png", "test/a/2024/5.png"):  # as where a run has found its images
        paint(tmp_path / "whole" / name)
    assert len(load_arrival(run, str(tmp_path / "whole"), ["a"]).images) == 2


def test_a_data_set_has_no_tints_for_a_run_that_has(tmp_path: Path) -> None:
    config = Config(model=SMALL, partition=PartitionConfig(style="tint"))
    with pytest.raises(DataError, match=r"a folder of tinted images .* got mnist, whose images"):
        load_arrival(saved(tmp_path, config), "mnist")


def test_no_name_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(tmp_path / "0.png")
    monkeypatch.chdir(tmp_path)
    for data in ("", " "):
        with pytest.raises(ConfigError, match="expected a data set or a folder of images, got '"):
            load_arrival(saved(tmp_path, Config(model=SMALL)), data)


def test_a_package_is_asked_for_arriving_images_where_the_run_has_found_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OTHER_DATASETS, "_found", {})
    asked = list[tuple[str, str | None]]()

    def scans(split: str, path: str | None) -> OutsideImages:
        asked.append((split, path))
        return OutsideImages(np.zeros((4, 1, 8, 8), np.uint8), np.zeros(4, np.int64), ["a"])

    for name in ("scans", "others"):
        OTHER_DATASETS.register(name, scans, "0")
    config = Config(model=SMALL, data=DataConfig("scans", path="/data/scans"))
    run = saved(tmp_path, config)
    assert load_arrival(run, "scans").images.shape == (4, 1, 8, 8)
    load_arrival(run, "others")
    load_arrival(replace(run, config=replace(config, data=DataConfig())), "scans")
    assert asked == [("test", "/data/scans"), ("test", None), ("test", None)]


def test_a_client_that_arrives_holds_back_what_the_run_hides(tmp_path: Path) -> None:
    partition = PartitionConfig("natural", hidden=("caf\u00e9",), hidden_from_new=("b",))
    run = saved(tmp_path, Config(model=SMALL, data=DataConfig("fonts"), partition=partition))
    run = replace(run, class_names=("a", "b", "cafe\u0301"))
    for i in range(8):
        paint(tmp_path / "new" / ("a", "b", "cafe\u0301", "caf\u00e9")[i % 4] / f"{i}.png")
    arriving = load_arrival(run, str(tmp_path / "new"))
    assert held_back(run, arriving).tolist() == [False] * 2 + [True] * 6
    split = arrival_split(arriving, run, None, 30)
    assert {0, 1} >= set(split.train.tolist()) > set()
    assert sorted([*split.train, *split.test]) == list(range(8))
    hidden = load_arrival(run, str(tmp_path / "new"), ["b", "cafe\u0301"])
    with pytest.raises(DataError, match=r"expected images .* that the run's partition.hidden and"):
        check_arrival(run, hidden, run.config, None)


def test_a_client_of_a_run_with_tints_is_scored_by_the_classifier_of_colours(
    tmp_path: Path,
) -> None:
    tinted = PartitionConfig("iid", style="tint", client_size=20)
    few = {"eval": EvalConfig(num_images=4), "diffusion": DiffusionConfig(sample_steps=2)}
    config = Config(model=SMALL, partition=tinted, adapt=AdaptConfig(epochs=1), **few)
    model = FlatModel(SMALL, config.method, 3)
    weights = torch.zeros(model.layout.size)
    run = SavedRun(tmp_path, config, (3, 8, 8), ("a",), model, weights)
    images = np.random.default_rng(0).integers(0, 256, (16, 3, 8, 8), dtype=np.uint8)
    adapt = replace(config.adapt, init="zero")
    arrival = adapt_arrival(run, ArrivingImages(images), adapt)
    assert arrival.curve[-1].observed is not None
    assert any("kid" in name for name in arrival.curve[-1].observed)
