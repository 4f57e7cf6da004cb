"""Data sets: settings, the store's verification, folders of images, resizing."""

import hashlib
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.config.data import DataConfig
from pipeline.data.catalog import DatasetSpec
from pipeline.data.datasets import ImageData, describe, load, load_stored, store_root
from pipeline.data.hashes import sha256_of
from pipeline.data.image_folder import decoded, opened_image, upright_rgb
from pipeline.data.resize import resized
from spire_core.errors import ConfigError, DataError


def stored(root: Path) -> tuple[DatasetSpec, dict[str, np.ndarray]]:
    """A data set of 6 + 4 images in the store, its training arrays in two parts, and its arrays."""
    rng = np.random.default_rng(0)
    arrays, hashes = {}, {}
    for split, num, num_parts in (("train", 6, 2), ("test", 4, 1)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (num, 1, 28, 28), dtype=np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 3, num)
        for kind in ("images", "labels"):
            parts = np.array_split(arrays[f"{split}_{kind}"], num_parts)
            hashes[f"{split}_{kind}"] = tuple(sha256_of(part) for part in parts)
    (root / "tiny").mkdir(parents=True)
    for name, array in arrays.items():
        np.save(root / "tiny" / f"{name}.npy", array)
    spec = DatasetSpec("tiny", "idx", (1, 28, 28), {"train": 6, "test": 4}, ("a", "b", "c"), hashes)
    return spec, arrays


def save_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def folder(
    path: Path, split: str, image_size: int, channels: int | str = 3, metadata: str | None = None
) -> ImageData:
    config = DataConfig("folder", None, str(path), image_size, channels, metadata)
    return load(config, split)


def test_unknown_name_says_which_exist() -> None:
    with pytest.raises(ConfigError, match="did you mean fashion_mnist"):
        DataConfig(name="fashion-mnist")
    with pytest.raises(
        # Other tests of this process may have brought data sets from outside.
        ConfigError,
        match=r"mnist, fashion_mnist, cifar10, fonts, folder.*, got 'zzz': choose",
    ):
        DataConfig(name="zzz")


def test_config_checks_combinations_and_ranges() -> None:
    with pytest.raises(ConfigError, match="image_size=None"):
        DataConfig(name="folder", path="x")
    with pytest.raises(ConfigError, match="path=None"):
        DataConfig(name="folder", image_size=16)
    with pytest.raises(ConfigError, match=r"in \[1, .*, got 0"):
        DataConfig(image_size=0)


def test_store_root_is_argument_then_environment_then_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPIRE_DATA", raising=False)
    assert store_root() == tmp_path / "data"
    monkeypatch.setenv("SPIRE_DATA", "elsewhere")
    assert store_root() == tmp_path / "elsewhere"
    assert store_root("given") == tmp_path / "given"


def test_load_says_how_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="spire data fetch mnist"):
        load(DataConfig(root=str(tmp_path)), "train")
    with pytest.raises(DataError, match="train or test, got 'val'"):
        load(DataConfig(root=str(tmp_path)), "val")


def test_stored_arrays_come_back_memory_mapped(tmp_path: Path) -> None:
    spec, arrays = stored(tmp_path)
    train, test = (load_stored(spec, tmp_path, split) for split in ("train", "test"))
    np.testing.assert_array_equal(train.images, arrays["train_images"])
    np.testing.assert_array_equal(test.labels, arrays["test_labels"])
    assert isinstance(train.images, np.memmap)
    assert not train.images.flags.writeable
    assert train.labels.dtype == np.int64
    assert (train.name, train.split, train.class_names) == ("tiny", "train", ("a", "b", "c"))
    assert train.sha256 == load_stored(spec, tmp_path, "train").sha256 != test.sha256


@pytest.mark.parametrize("damage", ["flip a byte", "truncate", "empty", "remove", "other shape"])
def test_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    spec, arrays = stored(tmp_path)
    file = tmp_path / "tiny" / "train_images.npy"
    content = bytearray(file.read_bytes())
    if damage == "flip a byte":
        content[-1] ^= 1
    file.write_bytes({"truncate": content[:-100], "empty": b""}.get(damage, content))
    if damage == "remove":
        file.unlink()
    if damage == "other shape":
        np.save(file, arrays["train_images"].reshape(6, 1, 14, 56))
    with pytest.raises(DataError, match=r"train_images\.npy is damaged.*spire data fetch tiny"):
        load_stored(spec, tmp_path, "train")
    assert len(load_stored(spec, tmp_path, "test").images) == 4


def test_describe(tmp_path: Path) -> None:
    spec, _ = stored(tmp_path)
    state = describe(spec, tmp_path)
    assert (state["present"], state["ok"], state["problem"]) == (True, True, None)
    assert (state["train"], state["test"]) == (6, 4)
    assert state["bytes"] == sum(f.stat().st_size for f in (tmp_path / "tiny").iterdir())
    (tmp_path / "tiny" / "test_labels.npy").write_bytes(b"x")
    damaged = describe(spec, tmp_path)
    assert (damaged["present"], damaged["ok"], damaged["test"]) == (True, False, 0)
    absent = describe("mnist", tmp_path)
    assert (absent["present"], absent["ok"], absent["bytes"]) == (False, False, 0)


@pytest.mark.parametrize("size", [4, 8, 12, 16, 20, 48])
def test_constant_images_stay_constant(size: int) -> None:
    images = np.full((3, 2, 16, 16), 77, np.uint8)
    assert (resized(images, size) == 77).all()
    assert resized(images, size).shape == (3, 2, size, size)


def test_area_average_by_hand() -> None:
    image = np.array([[0, 1, 10, 20], [1, 4, 30, 41], [255, 255, 0, 0], [255, 255, 0, 2]], np.uint8)
    # means 6/4, 101/4, 255 and 2/4; halves round up
    assert resized(image[None, None], 2).tolist() == [[[[2, 25], [255, 1]]]]


def test_28_is_padded_to_32_with_zeros_around() -> None:
    images = np.random.default_rng(0).integers(1, 256, (2, 1, 28, 28), dtype=np.uint8)
    padded = resized(images, None)
    np.testing.assert_array_equal(padded[:, :, 2:30, 2:30], images)
    assert padded.sum() == images.sum()
    np.testing.assert_array_equal(resized(images, 32), padded)
    np.testing.assert_array_equal(resized(images, 16), resized(padded, 16))


def test_resizing_to_the_same_size_is_the_identity() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
    np.testing.assert_array_equal(resized(images, 32), images)
    np.testing.assert_array_equal(resized(images, None), images)


@pytest.mark.parametrize("size", [8, 12, 20])
def test_chunks_do_not_show(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 3, 16, 16), dtype=np.uint8)
    whole = resized(images, size)
    monkeypatch.setattr("pipeline.data.resize._CHUNK_VALUES", 2 * 3 * 20 * 20)
    np.testing.assert_array_equal(resized(images, size), whole)


def test_bilinear_resizing_equals_pillow() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32), dtype=np.uint8)
    pillow = np.asarray(Image.fromarray(image).resize((12, 12), Image.Resampling.BILINEAR))
    ours = resized(image[None, None], 12)[0, 0]
    assert np.abs(ours.astype(int) - pillow).max() <= 1  # Pillow rounds between its two passes


def test_resizing_refuses_oblong_images() -> None:
    with pytest.raises(DataError, match="square"):
        resized(np.zeros((1, 1, 4, 8), np.uint8), 4)


def test_folder_of_grey_and_rgb_images(tmp_path: Path) -> None:
    grey = np.full((10, 10), 50, np.uint8)
    left_centre_right = np.repeat(np.array([[0] * 4 + [200] * 8 + [0] * 4], np.uint8), 8, axis=0)
    for split in ("train", "test"):
        save_image(tmp_path / split / "cat" / "1.png", grey)
        save_image(tmp_path / split / "dog" / "1.png", np.dstack([left_centre_right] * 3))
    config = DataConfig("folder", path=str(tmp_path), image_size=8, channels=3)
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
    train, test = (folder(tmp_path, split, 4) for split in ("train", "test"))
    assert np.bincount(train.labels).tolist() == [8, 1, 1]
    assert np.bincount(test.labels).tolist() == [2, 1]
    seen = np.concatenate([train.images, test.images])[:, 0, 0, 0].tolist()
    assert sorted(seen) == sorted([*range(97, 197, 10), 98, 108, 99])

    def key(i: int) -> bytes:
        return hashlib.sha256(f"a/{i}.png".encode()).digest()

    first_two = sorted(10 * i + ord("a") for i in sorted(range(10), key=key)[:2])
    assert test.images[:2, 0, 0, 0].tolist() == first_two
    elsewhere = tmp_path.rename(tmp_path.with_name("moved"))
    assert folder(elsewhere, "test", 4).sha256 == test.sha256


def test_a_name_that_is_no_text_is_split_by_its_bytes(tmp_path: Path) -> None:
    for name in (b"\xff.png", b"1.png", b"2.png"):
        save_image(tmp_path / "a" / os.fsdecode(name), np.zeros((4, 4), np.uint8))
    assert [len(folder(tmp_path, split, 4).images) for split in ("train", "test")] == [2, 1]


def test_images_that_are_left_out_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a/1.png", "a/2.png", "a/3.GIF", "cover.jpg"):
        save_image(tmp_path / name, np.zeros((4, 4), np.uint8))
    for name in ("a/4.heic", "a/deep/5.HEIC", "6.avif", "a/notes.txt", "a/.7.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert len(folder(tmp_path, "train", 4).images) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"images in {tmp_path} are left out: 1 .gif, 2 .heic, 1 .avif (save them as .png), "
        "1 beside the class folders (move them there)"
    ]


def test_images_beside_two_splits_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train/a/1.png", "test/a/2.png", "3.png", "train/4.png"):
        save_image(tmp_path / name, np.zeros((4, 4), np.uint8))
    assert len(folder(tmp_path, "train", 4).images) == 1
    assert [record.getMessage() for record in caplog.records] == [
        f"images in {tmp_path} are left out: 1 beside train and test (move them there)",
        f"images in {tmp_path}/train are left out: 1 beside the class folders (move them there)",
    ]


def test_hidden_folders_and_files_are_not_read(tmp_path: Path) -> None:
    visible = ["a/1.png", "a/2.png", "a/deep/3.png"]
    hidden = [
        ".ipynb_checkpoints/1.png",
        "a/.ipynb_checkpoints/1.png",
        "a/._1.png",
        ".x/train/1.png",
    ]
    for name in visible + hidden:
        save_image(tmp_path / name, np.full((4, 4), 10 + (name in hidden), np.uint8))
    splits = [folder(tmp_path, split, 4) for split in ("train", "test")]
    assert splits[0].class_names == ("a",)
    assert [split.images.max(initial=0) for split in splits] == [10, 10]
    assert sum(len(split.images) for split in splits) == len(visible)


def test_a_folder_that_cannot_be_listed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_image(tmp_path / "a" / "1.png", np.zeros((4, 4), np.uint8))

    def listdir(path: Path, real: Callable[[Path], list[str]] = os.listdir) -> list[str]:
        if path.name == "a":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("os.listdir", listdir)
    with pytest.raises(DataError, match=r"that can be read, got .*/a \(Permission denied\)"):
        folder(tmp_path, "train", 4)


def test_folder_errors_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"one subfolder of images per class, got .*nowhere"):
        folder(tmp_path / "nowhere", "train", 8)
    with pytest.raises(DataError, match="one subfolder of images per class"):
        folder(tmp_path, "train", 8)
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match=r"expected images in .*/b, got none"):
        folder(tmp_path, "train", 8)
    (tmp_path / "b").rmdir()
    save_image(tmp_path / "a" / "1.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="images in the test split"):
        folder(tmp_path, "test", 8)
    (tmp_path / "a" / "2.png").write_bytes(b"no image")
    (tmp_path / "a" / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"expected an image, got .*a/[23]\.png") as caught:
        folder(tmp_path, "train", 8)
    assert "\n" not in str(caught.value)


def test_folder_refuses_16_bits(tmp_path: Path) -> None:
    save_image(tmp_path / "train" / "a" / "1.png", np.full((4, 4), 60000, np.uint16))
    save_image(tmp_path / "test" / "a" / "1.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="8 bits per channel"):
        folder(tmp_path, "train", 4)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(("more", "less"), [("train", "test"), ("test", "train")])
def test_a_class_of_one_split_alone_is_refused_with_either(
    tmp_path: Path, split: str, more: str, less: str
) -> None:
    for name in ("train/a", "test/a", f"{more}/b"):
        save_image(tmp_path / name / "1.png", np.zeros((4, 4), np.uint8))
    expected = f"same class folders .* got 'b' in {more} alone: add images of it to {less}"
    with pytest.raises(DataError, match=expected):
        folder(tmp_path, split, 4)


@pytest.mark.parametrize("other", ["val", "Validation"])
def test_folders_of_other_splits_are_no_classes(tmp_path: Path, other: str) -> None:
    for name in ("train/a", "train/b", f"{other}/a"):
        save_image(tmp_path / name / "1.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=rf"got ({other}, train|train, {other}): name them train"):
        folder(tmp_path, "train", 4)
    assert folder(tmp_path / "train", "train", 4).class_names == ("a", "b")


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


def tiff_of_16_bits() -> bytes:
    """An uncompressed TIFF of one pixel with a plane of 16 bits for each channel."""
    directory = 8
    after = directory + 2 + 10 * 12 + 4
    lists = {
        258: (3, (16,) * 3),
        273: (4, (after + 32, after + 34, after + 36)),
        279: (4, (2,) * 3),
    }
    single = {256: 1, 257: 1, 259: 1, 262: 2, 277: 3, 278: 1, 284: 2}
    entries, values, at = b"", b"", after
    for tag in sorted({*lists, *single}):
        if tag in single:
            entries += struct.pack("<HHIHH", tag, 3, 1, single[tag], 0)
            continue
        kind, numbers = lists[tag]
        entries += struct.pack("<HHII", tag, kind, len(numbers), at)
        values += struct.pack("<3H2x" if kind == 3 else "<3I", *numbers)
        at = after + len(values)
    head = b"II*\0" + struct.pack("<IH", directory, 10)
    return head + entries + struct.pack("<I", 0) + values + b"\x12\x34" * 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("planes.tif", tiff_of_16_bits()),
        ("grey.png", png_of_16_bits(0, 1)),
        ("rgb.png", png_of_16_bits(2, 3)),
        ("grey_alpha.png", png_of_16_bits(4, 2)),
        ("rgba.png", png_of_16_bits(6, 4)),
        ("rgb.ppm", b"P6 1 1 65535\n" + b"\x12\x34" * 3),
        ("plain.ppm", b"P3 1 1 1000\n999 1 2\n"),
    ],
)
def test_an_image_of_16_bits_per_channel_is_refused(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    message = f"8 bits per channel, got more in .*{name}: convert it"
    with pytest.raises(DataError, match=message), opened_image(tmp_path / name):
        pass


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rgb.ppm", b"P6 1 1 255\n" + b"\x12" * 3),
        # A BMP of 16 bits per pixel has 5 per channel.
        (
            "small.bmp",
            b"BM"
            + struct.pack("<IIIIiiHHIIiiII", 58, 0, 54, 40, 1, 1, 1, 16, 0, 4, 0, 0, 0, 0)
            + b"\x12\x34\0\0",
        ),
    ],
)
def test_an_image_of_at_most_8_bits_per_channel_is_taken(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with opened_image(tmp_path / name) as image:
        assert image.convert("RGB").size == (1, 1)


def test_a_named_pipe_among_the_images_is_refused(tmp_path: Path) -> None:
    save_image(tmp_path / "a" / "1.png", np.zeros((4, 4), np.uint8))
    os.mkfifo(tmp_path / "a" / "2.png")
    os.mkfifo(tmp_path / "a" / "3.png")
    with pytest.raises(DataError, match=r"a/[23]\.png, which is no regular file: remove it"):
        folder(tmp_path, "train", 4)


def test_links_that_lead_back_by_way_of_each_other_are_refused(tmp_path: Path) -> None:
    for name in "ab":
        save_image(tmp_path / name / "1.png", np.zeros((4, 4), np.uint8))
        save_image(tmp_path / name / "2.png", np.ones((4, 4), np.uint8))
    (tmp_path / "a" / "l").symlink_to(tmp_path / "b")
    assert len(folder(tmp_path, "train", 4).labels) == 3 + 1  # a link to another class is no loop
    (tmp_path / "b" / "m").symlink_to(tmp_path / "a")
    with pytest.raises(DataError, match=r"a/l/m, a link to a folder around it: remove it"):
        folder(tmp_path, "train", 4)


def test_names_that_are_no_text_are_one_sentence(tmp_path: Path) -> None:
    base = tmp_path / os.fsdecode(b"caf\xe9")
    save_image(base / "a" / "1.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=r"data\.path in UTF-8, got b'.*caf.xe9': rename it"):
        folder(base, "train", 4)
    save_image(tmp_path / "whole" / os.fsdecode(b"caf\xe9") / "1.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match=r"a class folder in UTF-8, got b'.*caf.xe9': rename it"):
        folder(tmp_path / "whole", "train", 4)


@pytest.mark.parametrize(
    ("colour", "channels", "shape"),
    [(False, "auto", 1), (True, "auto", 3), (False, 3, 3), (True, 1, 1), (False, 1, 1)],
)
def test_a_folder_is_grey_if_no_image_has_a_colour(
    tmp_path: Path, colour: bool, channels: int | str, shape: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    for i, image in enumerate(pixels.repeat(3, axis=3)):
        image[0, 0, 2] ^= colour and i == 2  # one pixel, a little
        save_image(tmp_path / "a" / f"{i}.png", image)
    rows = "".join(f"a/{i}.png,b\n" for i in range(4))
    (tmp_path / "meta.csv").write_text(f"path,client\n{rows}")
    data = folder(tmp_path, "train", 8, channels, "meta.csv")
    assert data.images.shape == (4, shape, 8, 8)
    np.testing.assert_array_equal(data.images[0], pixels[0].transpose(2, 0, 1).repeat(shape, 0))


def test_one_channel_is_pillows_grey(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        save_image(tmp_path / "train" / "a" / f"{i}.png", image)
        save_image(tmp_path / "test" / "a" / f"{i}.png", image)
    expected = [np.asarray(Image.fromarray(image).convert("L")) for image in pixels]
    np.testing.assert_array_equal(folder(tmp_path, "train", 8, 1).images[:, 0], expected)
    with pytest.raises(ConfigError, match="a folder takes 1 and 3"):
        folder(tmp_path, "train", 8, 2)
    with pytest.raises(ConfigError, match=r"data\.channels"):
        DataConfig("mnist", channels=1)


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    # Ink that opacity alone draws, as in many icons.
    opacity = np.repeat(np.array([255, 255, 128, 0], np.uint8), 4).reshape(4, 4)
    ink = np.zeros((4, 4, 4), np.uint8)
    ink[..., 3] = opacity
    for name, pixels in (("rgba.png", ink), ("grey.png", ink[..., [0, 3]].copy())):
        save_image(tmp_path / name, pixels)
        assert (decoded(tmp_path / name, 4) == 255 - opacity).all()
    for mode in ("P", "L"):  # one colour is transparent
        Image.fromarray(opacity).convert(mode).save(tmp_path / "one.png", transparency=0)
        assert (decoded(tmp_path / "one.png", 4) == np.where(opacity, opacity, 255)).all()


def test_an_image_that_is_opaque_everywhere_keeps_its_colours() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
    colours[..., 3] = 255
    assert (np.asarray(upright_rgb(Image.fromarray(colours))) == colours[..., :3]).all()


def test_images_of_their_own_size_are_a_plain_array_that_processes_share(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.zeros((5, 3, 32, 32), np.uint8))
    stored = np.load(tmp_path / "images.npy", mmap_mode="r")
    buffers: list[pickle.PickleBuffer] = []
    in_band = pickle.dumps(resized(stored, 32), protocol=5, buffer_callback=buffers.append)
    assert [buffer.raw().nbytes for buffer in buffers] == [stored.nbytes]
    assert len(in_band) < 1000
