"""The user's own images: class folders, client folders and metadata are read, or refused."""

import hashlib
import json
import shlex
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.cli.main import main
from pipeline.config.data import DataConfig
from pipeline.config.load import load_config
from pipeline.data.datasets import ImageData, load, load_clients
from pipeline.data.image_folder import opened_rgb
from spire_core.errors import DataError

CLIENTS = {"ann": 5, "bob": 3, "cid": 8}
NATURAL = ["partition=natural", "partition.min_size=2", "federation.cohort_size=1"]
NATURAL += ["federation.num_clients=1", "federation.num_new_clients=1"]


def save_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def paint(path: Path, value: int) -> None:
    save_image(path, np.full((8, 8, 3), (value, 0, 0), np.uint8))


def values(data: ImageData) -> list[int]:
    """The red of each image, by which the tests tell images apart."""
    return data.images[:, 0, 0, 0].tolist()


def own(path: Path, **more: Any) -> DataConfig:
    return DataConfig("folder", path=str(path), **{"image_size": 8} | more)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One folder per client, with images of different values; `cid` has classes."""
    value = 0
    for client, num in CLIENTS.items():
        for i in range(num):
            within = f"{'cat' if i % 2 else 'dog'}/{i}.png" if client == "cid" else f"{i}.png"
            paint(tmp_path / "own" / client / within, value := value + 10)
    return tmp_path / "own"


# Class folders


def test_folder_of_grey_and_rgb_images(tmp_path: Path) -> None:
    grey = np.full((10, 10), 50, np.uint8)
    left_centre_right = np.repeat(np.array([[0] * 4 + [200] * 8 + [0] * 4], np.uint8), 8, axis=0)
    for split in ("train", "test"):
        save_image(tmp_path / split / "cat" / "1.png", grey)
        save_image(tmp_path / split / "dog" / "1.png", np.dstack([left_centre_right] * 3))
    config = own(tmp_path, channels=3)
    data = load(config, "test")
    assert data.class_names == ("cat", "dog")
    assert data.labels.tolist() == [0, 1]
    assert data.images.dtype == np.uint8
    np.testing.assert_array_equal(data.images[0], np.full((3, 8, 8), 50))
    np.testing.assert_array_equal(data.images[1], np.full((3, 8, 8), 200))  # the central square
    assert data.sha256 == load(config, "test").sha256
    save_image(tmp_path / "test" / "cat" / "1.png", grey + 1)
    assert data.sha256 != load(config, "test").sha256


def test_folder_without_splits_is_split_by_name(tmp_path: Path) -> None:
    for name, num in (("a", 10), ("b", 2), ("c", 1)):
        for i in range(num):
            save_image(tmp_path / name / f"{i}.png", np.full((4, 4), 10 * i + ord(name), np.uint8))
    train, test = (load(own(tmp_path), split) for split in ("train", "test"))
    assert np.bincount(train.labels).tolist() == [8, 1, 1]
    assert np.bincount(test.labels).tolist() == [2, 1]
    assert sorted(values(train) + values(test)) == sorted([*range(97, 197, 10), 98, 108, 99])

    def key(i: int) -> bytes:
        return hashlib.sha256(f"a/{i}.png".encode()).digest()

    first_two = sorted(10 * i + ord("a") for i in sorted(range(10), key=key)[:2])
    assert values(test)[:2] == first_two
    elsewhere = tmp_path.rename(tmp_path.with_name("moved"))
    assert load(own(elsewhere), "test").sha256 == test.sha256


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    for missing in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DataError, match=r"expected a .*folder of images"):
            load(own(missing), "train")
    paint(tmp_path / "a" / "1.png", 0)
    with pytest.raises(DataError, match="images in the test split"):
        load(own(tmp_path), "test")


@pytest.mark.parametrize(
    ("colour", "channels", "shape"),
    [(False, "auto", 1), (True, "auto", 3), (False, 3, 3), (True, 1, 1)],
)
def test_a_folder_is_grey_if_no_image_has_a_colour(
    tmp_path: Path, colour: bool, channels: int | str, shape: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    for i, image in enumerate(pixels.repeat(3, axis=3)):
        image[0, 0, 2] ^= 255 * (colour and i == 2)  # one pixel
        save_image(tmp_path / "a" / f"{i}.png", image)
    data = load_clients(own(tmp_path, channels=channels))
    assert data.images.shape == (4, shape, 8, 8)
    np.testing.assert_array_equal(data.images[0], pixels[0].transpose(2, 0, 1).repeat(shape, 0))
    if colour and channels == 1:
        luma = Image.open(tmp_path / "a" / "2.png").convert("L")
        np.testing.assert_array_equal(data.images[2, 0], np.asarray(luma))


# Single images


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    save_image(tmp_path / "a" / "1.jpg", noise)
    whole = (tmp_path / "a" / "1.jpg").read_bytes()
    for content in (b"no image", b"", whole[: len(whole) // 2]):
        (tmp_path / "a" / "2.jpg").write_bytes(content)
        with pytest.raises(DataError, match=r"expected an image, got .*a/2\.jpg .*: remove or men"):
            load_clients(own(tmp_path))


def png_of_16_bits(colour_type: int, channels: int) -> bytes:
    """A PNG of one pixel with 16 bits per channel, which Pillow cannot write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 1, 1, 16, colour_type, 0, 0, 0)
    pixel = zlib.compress(b"\0" + b"\x12\x34" * channels)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        chunk(*part) for part in ((b"IHDR", header), (b"IDAT", pixel), (b"IEND", b""))
    )


@pytest.mark.parametrize(("colour_type", "channels"), [(0, 1), (6, 4)])
def test_an_image_of_16_bits_per_channel_is_refused(
    tmp_path: Path, colour_type: int, channels: int
) -> None:
    """Pillow would drop 8 of them in silence."""
    (tmp_path / "deep.png").write_bytes(png_of_16_bits(colour_type, channels))
    with pytest.raises(DataError, match=r"8 bits per channel, got more in .*deep\.png: convert it"):
        opened_rgb(tmp_path / "deep.png")


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    # Ink that opacity alone draws, as in many icons.
    opacity = np.repeat(np.array([255, 255, 128, 0], np.uint8), 4).reshape(4, 4)
    ink = np.zeros((4, 4, 4), np.uint8)
    ink[..., 3] = opacity
    for name, pixels in (("rgba.png", ink), ("grey.png", ink[..., [0, 3]].copy())):
        save_image(tmp_path / name, pixels)
        assert (np.asarray(opened_rgb(tmp_path / name))[..., 0] == 255 - opacity).all()
    shown = np.where(opacity, opacity, 255)
    for mode in ("P", "L"):  # one colour is transparent
        Image.fromarray(opacity).convert(mode).save(tmp_path / "one.png", transparency=0)
        assert (np.asarray(opened_rgb(tmp_path / "one.png"))[..., 0] == shown).all()


# Client folders


def test_a_top_folder_is_a_client(folder: Path) -> None:
    data = load_clients(own(folder))
    assert data.clients is not None
    assert data.clients.names == tuple(CLIENTS)
    assert np.bincount(data.clients.owner).tolist() == list(CLIENTS.values())
    assert data.clients.is_test is None
    assert data.captions is None
    assert data.class_names == ("cat", "dog", "image")
    assert np.bincount(data.labels).tolist() == [4, 4, 8]
    assert sorted(values(data)) == [10 * i for i in range(1, 17)]
    by_owner = [np.array(values(data))[data.clients.owner == i] for i in range(3)]
    assert [max(of) for of in by_owner] == [50, 80, 160]


def test_top_folders_of_splits_are_kept(folder: Path) -> None:
    for split, client, value in (("train", "ann", 1), ("train", "bob", 2), ("test", "ann", 3)):
        paint(folder / split / client / "a.png", value)
    data = load_clients(own(folder))
    assert data.clients is not None
    assert data.clients.is_test is not None
    found = [data.clients.names[i] for i in data.clients.owner]
    assert list(zip(found, data.clients.is_test.tolist(), values(data), strict=True)) == [
        ("ann", False, 1),
        ("bob", False, 2),
        ("ann", True, 3),
    ]


def test_hidden_folders_are_no_clients_and_a_client_without_images_is_an_error(
    folder: Path,
) -> None:
    paint(folder / ".ipynb_checkpoints" / "0.png", 201)
    paint(folder / "ann" / ".ipynb_checkpoints" / "0.png", 201)
    assert 201 not in values(load_clients(own(folder)))
    (folder / "dan").mkdir()
    with pytest.raises(DataError, match=r"expected images in .*dan, got none"):
        load_clients(own(folder))


# Metadata


def rows(folder: Path) -> list[dict[str, str]]:
    """Correct metadata of the folder, with other clients than its own."""
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    return [
        {"path": file, "client": f"c{i % 2}", "caption": f"picture {i % 3}"}
        for i, file in enumerate(files)
    ]


def write(folder: Path, records: list[dict], name: str = "meta.csv") -> None:
    table = pd.DataFrame(records)
    if name.endswith(".csv"):
        table.to_csv(folder / name, index=False)
    elif name.endswith(".parquet"):
        table.to_parquet(folder / name)
    else:
        (folder / name).write_text("".join(json.dumps(r) + "\n" for r in records))


def listed(folder: Path, name: str = "meta.csv", **more: str) -> ImageData:
    return load_clients(own(folder, metadata=name, **more))


@pytest.mark.parametrize("name", ["meta.csv", "meta.jsonl", "meta.parquet"])
def test_metadata_say_whose_an_image_is_and_what_it_shows(folder: Path, name: str) -> None:
    """Clients' names stay the texts that they are."""
    names = ["007", "7", "NA", "null", "1e5", "2020-01-01", "True", " Zoë "]
    write(folder, [r | {"client": names[i % 8]} for i, r in enumerate(rows(folder))][::-1], name)
    data = listed(folder, name)
    assert data.clients is not None
    owners = [data.clients.names[at] for at in data.clients.owner]
    assert owners == [names[i % 8].strip() for i in range(16)][::-1]
    assert data.captions == tuple(f"picture {i % 3}" for i in range(16))[::-1]
    assert data.class_names == ("image",)
    red = [Image.open(folder / row["path"]).getpixel((0, 0))[0] for row in rows(folder)]  # type: ignore[index]
    assert values(data) == red[::-1]


def test_other_partitions_take_the_training_images_of_metadata(folder: Path) -> None:
    records = [r | {"split": "test" if i < 4 else "train"} for i, r in enumerate(rows(folder))]
    write(folder, records)
    train, test = (load(own(folder, metadata="meta.csv"), split) for split in ("train", "test"))
    assert (len(train.images), len(test.images)) == (12, 4)
    assert values(test) + values(train) == values(listed(folder))
    assert test.captions == tuple(r["caption"] for r in records[:4])


def test_the_vocabulary_that_is_shown_is_a_setting(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """YAML and the shell take other meanings of some words, which have to arrive as they are."""
    captions = ["No: it's", "a [b] 3", "on, off 1e5", "NULL $x"]
    write(folder, [r | {"caption": captions[i % 4]} for i, r in enumerate(rows(folder))])
    words = ["smoke", "data=folder", f"data.path={folder}", "data.image_size=8"]
    words += ["data.metadata=meta.csv", *NATURAL]
    assert main(["data", "show", *words]) == 0
    [typed] = shlex.split(capsys.readouterr().out.splitlines()[-1])
    found = load_config("smoke", ["model.text=words", typed]).model.words
    assert found == ("$x", "1e5", "3", "[b]", "a", "it's", "no:", "null", "off", "on,")
    assert main(["data", "show", *words, "model.text=words", typed]) == 0
    assert "model.words" not in capsys.readouterr().out


def broken(at: int, **cells: object) -> Callable[[list], list]:
    """A change of one row of correct metadata."""
    return lambda records: [r | cells if i == at else r for i, r in enumerate(records)]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (broken(2, path="ann/none.png"), r"expected an image, got .*ann/none\.png"),
        (broken(3, path="ann/0.png"), "expected one row of ann/0.png in .*, got 2"),
        (broken(4, client="  "), "a client in every row of .* none in row 5"),
        (lambda r: [x | {"split": "val"} for x in r], "a split train or test in .*, got val"),
        (lambda r: [{"path": x["path"]} for x in r], "a column 'client' in .*, got path"),
    ],
)
def test_malformed_rows_are_refused(
    folder: Path, change: Callable[[list], list], expected: str
) -> None:
    write(folder, change(rows(folder)))
    with pytest.raises(DataError, match=expected):
        listed(folder)


def test_files_that_are_no_images_are_left_out_and_counted(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_clients(own(folder))
    for name in ("ann/0.png", "cid/cat/1.png"):
        (folder / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"2 of 16 images cannot be read, .*ann/0\.png .*skip"):
        load_clients(own(folder))
    data = load_clients(own(folder, on_bad="skip"))
    assert "left out: 2 of 16 images" in caplog.text
    kept = [i for i, value in enumerate(values(before)) if value in values(data)]
    assert len(kept) == 14
    assert before.clients is not None
    assert data.clients is not None
    assert data.clients.owner.tolist() == before.clients.owner[kept].tolist()
    assert data.labels.tolist() == before.labels[kept].tolist()


def test_too_few_owners_are_answered_with_the_settings_that_fit(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"data.path={folder}", "data.image_size=8", "partition.min_size=2"]
    words += ["partition.test_fraction=0.6"]
    typed = ["data", "show", "folder-cpu", *words, "partition=natural"]
    assert main(typed) == 2
    said = capsys.readouterr().err
    assert "of 3 in all (ann, bob, cid): type " in said
    assert main([*typed, *shlex.split(said.partition(": type ")[2])]) == 0
