"""A client that arrives: its images, of a folder or of another package, and where it starts."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.config.data import DataConfig
from pipeline.config.load import load_config
from pipeline.config.schema import Config
from pipeline.federation.setup import public_representatives
from pipeline.inference.arrival import adapt_arrival, mean_start, split_of
from pipeline.inference.arrival_images import ArrivingImages, arrival_of, held_back, load_arrival
from pipeline.inference.saved_run import SavedRun
from spire_core.config.adapt import AdaptConfig
from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.eval import EvalConfig
from spire_core.config.model import ModelConfig
from spire_core.config.partition import PartitionConfig
from spire_core.errors import ConfigError, DataError
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel

SMALL = ModelConfig(d_emb=4, width=8, multipliers=(1,), attention=(), cond_dim=8)


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


def test_a_client_that_arrives_holds_back_what_the_run_hides(tmp_path: Path) -> None:
    partition = PartitionConfig("natural", hidden=("caf\u00e9",), hidden_from_new=("b",))
    run = saved(tmp_path, Config(model=SMALL, data=DataConfig("fonts"), partition=partition))
    run = replace(run, class_names=("a", "b", "cafe\u0301"))
    for i in range(8):
        paint(tmp_path / "new" / ("a", "b", "cafe\u0301", "caf\u00e9")[i % 4] / f"{i}.png")
    arriving = load_arrival(run, str(tmp_path / "new"))
    assert held_back(run, arriving).tolist() == [False] * 2 + [True] * 6
    split = split_of(arriving, run, None, 30)
    assert {0, 1} >= set(split.train.tolist()) > set()
    assert sorted([*split.train, *split.test]) == list(range(8))
    hidden = load_arrival(run, str(tmp_path / "new"), ["b", "cafe\u0301"])
    with pytest.raises(DataError, match=r"expected images .* that the run's partition.hidden and"):
        split_of(hidden, run, None, 30)


def test_images_in_memory_of_any_kind_join(tmp_path: Path) -> None:
    run = saved(tmp_path, Config(model=SMALL))
    grey = np.arange(5 * 8 * 8).reshape(5, 8, 8).astype(np.uint8)
    same = (grey, grey[:, None], torch.from_numpy(grey[:, None] / 255), map(Image.fromarray, grey))
    for images in (*same, [{"image": image, "label": 3} for image in grey]):
        np.testing.assert_array_equal(arrival_of(run, images).images[:, 0], grey)
    wide = np.repeat(np.repeat(grey, 2, axis=1), 3, axis=2)[..., None].repeat(3, axis=3)
    assert arrival_of(run, wide).images.shape == (5, 1, 8, 8)  # cut, scaled and grey
    with pytest.raises(DataError, match="expected image 0 as uint8"):
        arrival_of(run, grey.astype(np.int64))


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


def test_the_mean_is_of_the_clients_that_stand_for_all_in_the_run_too() -> None:
    words = ["partition=independent", "partition.client_size=40", "federation.num_clients=2000"]
    config = load_config("smoke", [*words, "federation.num_rounds=200", "adapt.init=mean"])
    ids = public_representatives(config)
    assert len(ids) < 200  # of the clients that took part
    took_part = [*ids, 1998, 1999, 2000]  # and others, and one of the run's own new clients
    parts = {c: torch.full((4,), float(c)) for c in took_part}
    run: Any = SimpleNamespace(
        config=config,
        client_ids=sorted(took_part),
        client_state=lambda c: SimpleNamespace(parts={CLIENT_EMB: parts[c]}),
    )
    found = mean_start(run, config.adapt)
    assert found is not None
    assert torch.equal(found, torch.stack([parts[c] for c in ids]).mean(0))
