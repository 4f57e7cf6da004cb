"""A client that arrives at a run with text brings captions: it is shown them, or told of none."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import spire
from pipeline.config.data import DataConfig
from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig
from pipeline.inference.arrival import adapt_arrival
from pipeline.inference.arrival_images import ArrivingImages, held_back, load_arrival
from pipeline.inference.saved_run import SavedRun
from pipeline.runs.model_files import save_run
from spire_core.config.adapt import AdaptConfig
from spire_core.config.diffusion import DiffusionConfig
from spire_core.config.eval import EvalConfig
from spire_core.config.model import ModelConfig
from spire_core.config.partition import PartitionConfig
from spire_core.errors import ConfigError, DataError
from spire_core.methods import CLIENT_EMB
from spire_core.network.flat_model import FlatModel
from sweeps.cli import main

WORDS = ("red", "blue", "digit")
TEXT = ModelConfig(
    d_emb=4, width=8, multipliers=(1,), attention=(), cond_dim=8, text="words", words=WORDS
)


def saved(folder: Path, model: ModelConfig = TEXT) -> SavedRun:
    """A finished run with random weights, of images of 8 x 8 in colour."""
    config = Config(
        model=model,
        diffusion=DiffusionConfig(num_timesteps=10, sample_steps=2),
        data=DataConfig("folder", path="own", image_size=8, metadata="list.csv"),
        adapt=AdaptConfig(epochs=1),
        eval=EvalConfig(extractor="none", num_images=2),
        tracking=TrackingConfig(enabled=False),
    )
    network = FlatModel(config.model, config.method, 3)
    weights = torch.randn(network.layout.size, generator=torch.Generator().manual_seed(0)) / 10
    more = {"image_shape": [3, 8, 8], "class_names": ["image"]}
    save_run(folder / "model", config, network, weights.numpy(), more)
    record = {"run_id": folder.name, "run_name": folder.name, "started_ms": 0, "kind": "run"}
    (folder / "run.json").write_text(json.dumps(record | {"tracked": False, "uri": ""}))
    return SavedRun.load(folder)


@pytest.fixture
def run(tmp_path: Path) -> SavedRun:
    return saved(tmp_path / "runs" / "letters")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight images in one folder, of which the last does not stand in the table."""
    (tmp_path / "mine").mkdir()
    for i in range(8):
        Image.new("RGB", (8, 8), (30 * i, 0, 0)).save(tmp_path / "mine" / f"{i}.png")
    write(tmp_path / "mine", rows())
    return tmp_path / "mine"


def rows(**more: str) -> list[dict[str, str]]:
    captions = ["red digit", "blue", "Red", "blue digit", "red", "digit", "blue red"]
    return [{"path": f"{i}.png", "caption": text} | more for i, text in enumerate(captions)][::-1]


def write(folder: Path, records: list[dict[str, str]]) -> None:
    with (folder / "list.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(records[0]))
        table.writeheader()
        table.writerows(records)


def test_the_table_of_a_folder_says_what_images_show(run: SavedRun, folder: Path) -> None:
    found = load_arrival(run, str(folder))
    assert found.captions == tuple(row["caption"] for row in rows())
    assert found.images[:, 0, 0, 0].tolist() == [180, 150, 120, 90, 60, 30, 0]
    write(folder, rows(client="ann", **{"class": "image"}))  # a run's own table will do
    found = load_arrival(run, str(folder), ["image"])
    assert found.captions is not None
    assert found.mixture is not None
    write(folder, rows(split="validation"))  # of another split than a run has
    assert load_arrival(run, str(folder)).captions == tuple(row["caption"] for row in rows())
    (folder / "list.csv").unlink()
    found = load_arrival(run, str(folder))
    assert (len(found.images), found.captions) == (8, None)


def test_folders_name_the_classes_of_a_table_that_names_none(run: SavedRun, folder: Path) -> None:
    """Else a client would train on classes that the run hides."""
    (folder / "image").mkdir()
    for i in range(4):
        (folder / f"{i}.png").rename(folder / "image" / f"{i}.png")
    places = [{**row, "path": f"image/{row['path']}"} for row in rows() if row["path"] < "4"]
    write(folder, [*places, *(row for row in rows() if row["path"] >= "4")])
    found = load_arrival(run, str(folder))
    assert found.labels is not None
    assert found.labels.tolist() == [0] * 4 + [-1] * 3
    assert len(load_arrival(run, str(folder), ["image"]).images) == 4
    hides = PartitionConfig("natural", hidden=("image",))
    hiding = replace(run, config=replace(run.config, partition=hides))
    assert held_back(hiding, found).tolist() == [True] * 4 + [False] * 3


def test_captions_of_a_data_set_come_with_its_images(tmp_path: Path, fonts_root: Path) -> None:
    from pipeline.data.datasets import load_stored
    from pipeline.data.glyphs import CHARACTERS, caption_of

    words = tuple(sorted({word for c in CHARACTERS for word in caption_of(c).split()}))
    run = replace(saved(tmp_path / "r", replace(TEXT, words=words)), image_shape=(1, 16, 16))
    num_fonts = len(load_stored("fonts", fonts_root, "test").labels) // len(CHARACTERS)
    found = load_arrival(run, "fonts", ["Q"], str(fonts_root))
    assert found.captions == ("latin capital letter q",) * num_fonts
    assert num_fonts > 0


def test_a_client_learns_from_its_captions(run: SavedRun) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 3, 8, 8), dtype=np.uint8)

    def fitted(captions: tuple[str, ...] | None) -> list[float]:
        arrival = adapt_arrival(run, ArrivingImages(images, None, captions), run.config.adapt, 40)
        emb = run.client_state(40).parts[CLIENT_EMB].tolist()
        arrival.path.unlink()  # so that the next one has its id, which seeds its batches
        return emb

    red = fitted(("red",) * 8)
    assert fitted(("red",) * 8) == red
    assert fitted(("blue",) * 8) != red
    assert fitted(None) != red


def test_a_client_does_not_learn_from_captions_that_the_run_hides(run: SavedRun) -> None:
    partition = PartitionConfig("natural", hidden=("red *", "blue"))
    hides = replace(run, config=replace(run.config, partition=partition))
    captions = ("Red  digit", "blue", "red", "digit") * 2
    arriving = ArrivingImages(np.zeros((8, 3, 8, 8), np.uint8), None, captions)
    assert held_back(hides, arriving).tolist() == [True, True, False, False] * 2
    assert not held_back(run, arriving).any()
    seen, unseen = (adapt_arrival(r, arriving, r.config.adapt) for r in (run, hides))
    assert (seen.num_train, seen.num_test) == (6, 2)
    assert (unseen.num_train + unseen.num_test, unseen.num_train <= 4) == (8, True)


@pytest.mark.parametrize(
    ("captions", "told"),
    [
        (("green",) * 8, "expected words of red, blue, digit, got 'green'"),
        (["red"] * 7 + [None], "expected a list of 8 texts as captions"),
        (("red",) * 7, "expected a list of 8 texts as captions"),
    ],
)
def test_wrong_captions_are_one_sentence(run: SavedRun, captions: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        spire.adapt(run, np.zeros((8, 3, 8, 8), np.uint8), captions=captions)
    assert run.client_ids == []


def test_a_run_without_text_reads_no_captions(folder: Path, tmp_path: Path) -> None:
    plain = saved(tmp_path / "runs" / "plain", replace(TEXT, text="none", words=()))
    (folder / "list.csv").write_text("nonsense")
    found = load_arrival(plain, str(folder))
    assert (len(found.images), found.captions) == (8, None)
    with pytest.raises(ConfigError, match="expected a run with text for captions, got one with"):
        spire.adapt(plain, np.zeros((8, 3, 8, 8), np.uint8), captions=("red",) * 8)


def test_the_command_says_where_captions_are_missing(
    run: SavedRun,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SPIRE_ROOT", str(tmp_path))
    write(folder, [{**row, "client": "ann" if i else "bob"} for i, row in enumerate(rows())])
    assert main(["adapt", "letters", "--data", str(folder)]) == 2
    assert "expected the images of one client in" in capsys.readouterr().err
    write(folder, rows())
    (folder / "list.csv").unlink()
    assert main(["adapt", "letters", "--data", str(folder)]) == 0
    assert "no captions in list.csv" in capsys.readouterr().err
