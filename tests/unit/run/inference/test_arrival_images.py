"""The images of a client that arrives, from the data set that another package brings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config.data import OTHER_DATASETS, DataConfig
from pipeline.config.schema import Config
from pipeline.data.outside import OutsideImages
from pipeline.inference.arrival_images import load_arrival
from pipeline.inference.saved_run import SavedRun
from spire_core.config.model import ModelConfig
from spire_core.network.flat_model import FlatModel

SMALL = ModelConfig(4, 8, (1,), attention=(), cond_dim=8)


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
    model = FlatModel(config.model, config.method, 1)
    weights = torch.zeros(model.layout.size)
    run = SavedRun(tmp_path, config, (1, 8, 8), ("a",), model, weights)
    assert load_arrival(run, "scans").images.shape == (4, 1, 8, 8)
    load_arrival(run, "others")
    load_arrival(replace(run, config=replace(config, data=DataConfig())), "scans")
    assert asked == [("test", "/data/scans"), ("test", None), ("test", None)]
