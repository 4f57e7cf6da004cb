"""Fonts as clients, with the fonts that matplotlib brings: drawn, stored, verified, partitioned."""

import io
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from pipeline.config.data import DataConfig
from pipeline.config.load import load_config
from pipeline.data.catalog import SPECS, DatasetSpec
from pipeline.data.datasets import describe, load, load_clients, load_stored
from pipeline.data.fetch import check_source, fetch
from pipeline.data.formats import Part
from pipeline.data.glyphs import CHARACTERS, arriving, caption_of, draw_fonts, files_hash, font_name
from pipeline.data.sources import from_folder, read_archive
from pipeline.federation.partitioning import partitioned
from spire_core.errors import ConfigError, DataError

FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")
FILES = {  # by names that are not variants of each other
    "book": "DejaVuSans",
    "fat": "DejaVuSans-Bold",
    "mono": "DejaVuSansMono",
    "roman": "DejaVuSerif",
    "times": "STIXGeneral",
}
NAMES = sorted(FILES)


def font_files() -> list[Part]:
    return [
        Part(f"{name}.ttf", np.frombuffer((FONTS / f"{file}.ttf").read_bytes(), np.uint8))
        for name, file in FILES.items()
    ]


@pytest.fixture(scope="module")
def spec() -> DatasetSpec:
    """The data set `fonts` with the hash of matplotlib's files."""
    known = SPECS["fonts"]
    return replace(known, sha256=known.sha256 | {"files": (files_hash(font_files()),)})


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    for name, file in FILES.items():
        shutil.copy(FONTS / f"{file}.ttf", folder / f"{name}.ttf")
    return folder


@pytest.fixture(scope="module")
def root(spec: DatasetSpec, originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    fetch(spec, folder, sources={"mine": from_folder(originals)}, log=lambda text: None)
    return folder


def test_captions_are_unicode_names() -> None:
    captions = [caption_of(character) for character in CHARACTERS]
    assert len(set(captions)) == 62
    assert captions[0] == "digit zero"
    assert captions[CHARACTERS.index("Q")] == "latin capital letter q"
    assert captions[CHARACTERS.index("q")] == "latin small letter q"


def test_glyphs_fill_their_square_and_are_drawn_anew_alike() -> None:
    files = font_files()[:2]
    drawn, again = draw_fonts(files), draw_fonts(files[::-1])
    for name, array in drawn.items():
        np.testing.assert_array_equal(array, again[name])
    glyphs = drawn["glyphs_28"]
    assert glyphs.shape == (2, 62, 28, 28)
    assert drawn["glyphs_16"].shape == (2, 62, 16, 16)
    bar, wide = glyphs[0][CHARACTERS.index("l")], glyphs[0][CHARACTERS.index("W")]
    assert bar[:, 14].max() > 200  # white on black
    assert bar[:, :4].max() == 0  # narrow glyphs stand in the middle
    assert bar.any(axis=1).all()
    assert wide.any(axis=0).all()  # wide ones reach both sides


def test_what_is_no_font_or_draws_too_little_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Part("broken.ttf", np.frombuffer(b"\0\1\0\0 no font", np.uint8))
    cut = Part("cut.ttf", font_files()[0].array[:2000])
    twin = Part("zz_twin.ttf", font_files()[0].array)
    drawn = draw_fonts([broken, cut, twin, font_files()[0]])
    assert drawn["names"].tolist() == [NAMES[0]]
    monkeypatch.setattr("pipeline.data.glyphs.MIN_DISTINCT", 63)
    assert draw_fonts([broken, font_files()[0]])["glyphs_16"].shape == (0, 62, 16, 16)


def test_variants_of_a_font_arrive_together() -> None:
    names = sorted(family * 4 + weight for family in "ABCDEFGHIJKLMN" for weight in ("b", "t"))
    chosen = arriving(names)
    assert 0 < chosen.sum() <= len(names) // 4
    of_family = {name[:4]: chosen[at] for at, name in enumerate(names)}
    assert [of_family[name[:4]] for name in names] == chosen.tolist()
    assert arriving([]).tolist() == []


def test_known_files_are_drawn_and_stored(spec: DatasetSpec, root: Path) -> None:
    data = load_clients(DataConfig(name="fonts", root=str(root)))
    assert data.clients is not None
    assert data.captions is not None
    assert data.clients.names == tuple(NAMES)
    assert data.images.shape == (62 * len(NAMES), 1, 28, 28)
    drawn = draw_fonts(font_files()[1:2])
    large = data.images.reshape(-1, 62, 28, 28)
    np.testing.assert_array_equal(large[1], drawn["glyphs_28"][0])
    small = load_clients(DataConfig(name="fonts", root=str(root), image_size=16))
    np.testing.assert_array_equal(
        small.images.reshape((*large.shape[:2], 16, 16))[1], drawn["glyphs_16"][0]
    )
    assert small.sha256 != data.sha256
    assert data.captions[62 + 10] == "latin capital letter a"
    assert data.class_names[data.labels[62 + 10]] == "A"
    assert data.clients.owner[62 + 10] == 1
    said: list[object] = []
    assert fetch(spec, root, sources={}, log=said.append) == root / "fonts"  # intact
    assert describe(spec, root)["ok"]


def test_the_splits_share_no_font(root: Path) -> None:
    arrives = arriving(NAMES)
    assert arrives.sum() == 1
    for split, wanted in (("train", ~arrives), ("test", arrives)):
        data = load_stored("fonts", root, split)
        both = load_clients(DataConfig(name="fonts", root=str(root)))
        rows = np.repeat(wanted, 62)
        np.testing.assert_array_equal(data.images, both.images[rows])
        assert data.captions == tuple(np.array(both.captions)[rows].tolist())
    assert load(DataConfig(name="fonts", root=str(root)), "train").clients is None


def test_other_files_are_refused(spec: DatasetSpec, tmp_path: Path, originals: Path) -> None:
    shutil.copytree(originals, tmp_path / "fewer")
    (tmp_path / "fewer" / f"{NAMES[0]}.ttf").unlink()
    sources = {"mine": from_folder(tmp_path / "fewer")}
    with pytest.raises(DataError, match=r"font files of fonts with SHA-256.*fonts-aenigma"):
        fetch(spec, tmp_path / "store", sources=sources, log=lambda text: None)
    assert not (tmp_path / "store" / "fonts").exists()


@pytest.mark.parametrize("file", ["glyphs_28.npy", "names.npy", "drawn.json"])
def test_a_damaged_file_is_found(root: Path, tmp_path: Path, file: str) -> None:
    shutil.copytree(root, tmp_path / "store")
    path = tmp_path / "store" / "fonts" / file
    path.write_bytes(path.read_bytes()[:-9] + b"\1" * 9)
    with pytest.raises(DataError, match=r"damaged .*spire data fetch fonts"):
        load_stored("fonts", tmp_path / "store", "train")


@pytest.mark.parametrize("size", [16, 28])
def test_damaged_fonts_are_drawn_again(
    size: int, spec: DatasetSpec, root: Path, originals: Path, tmp_path: Path
) -> None:
    shutil.copytree(root, tmp_path / "store")
    (tmp_path / "store" / "fonts" / f"glyphs_{size}.npy").write_bytes(b"")
    told = describe("fonts", tmp_path / "store")
    assert not told["ok"]
    assert "damaged" in told["problem"]
    assert (told["train"], told["test"]) == (0, 0)
    said: list[object] = []
    sources = {"mine": from_folder(originals)}
    fetch(spec, tmp_path / "store", sources=sources, log=said.append)
    assert "FreeType" in " ".join(map(str, said))  # other pixels than those of the package
    load_stored("fonts", tmp_path / "store", "train", size)
    assert describe("fonts", tmp_path / "store")["ok"]


def test_font_files_of_a_package_are_read_by_name(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "content.tar", "w") as tar:
        for name in ("./usr/fonts/b.ttf", "./usr/doc/a.ttf", "./usr/fonts/a.txt"):
            info = tarfile.TarInfo(name)
            info.size = 3
            tar.addfile(info, io.BytesIO(b"abc"))
    parts = read_archive(tmp_path / "content.tar", "./usr/fonts/", "fonts")["files"]
    assert [(font_name(part), part.array.tobytes()) for part in parts] == [("b", b"abc")]


def test_a_folder_of_fonts_is_a_source(originals: Path, tmp_path: Path) -> None:
    check_source("fonts", str(originals))
    (tmp_path / "cat.png").touch()
    with pytest.raises(ConfigError, match="original files of fonts"):
        check_source("fonts", str(tmp_path))


WORDS = ["data=fonts", "data.image_size=16", "partition=natural", "federation.cohort_size=2"]
WORDS += ["federation.num_clients=4", "federation.num_new_clients=1", "adapt.num_images=8"]


def test_hidden_characters_are_shown_by_nobody_and_hidden_ones_by_no_new_client(root: Path) -> None:
    more = [f"data.root={root}", "partition.hidden=[Q]"]
    more += ["partition.hidden_from_new=['latin capital letter *', digit seven]"]
    data, partition = partitioned(load_config("smoke", [*WORDS, *more]))
    for client in partition.train_clients:
        assert CHARACTERS.index("Q") not in data.labels[client.train]
        assert CHARACTERS.index("Q") in data.labels[client.test]
        assert len(client.train) + len(client.test) == 62
    for client in partition.new_clients:
        shown = "".join(CHARACTERS[label] for label in data.labels[client.train])
        assert len(shown) == 8
        assert not any(character.isupper() or character == "7" for character in shown)
    with pytest.raises(ConfigError, match=r"partition\.hidden, got 'greek \*', which fits no"):
        partitioned(load_config("smoke", [*WORDS, more[0], "partition.hidden=['greek *']"]))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["partition=natural"], "data.name as fonts or folder"),
        (["partition.hidden=[A]"], "no partition.hidden with"),
        (["data.metadata=a.csv"], "no data.metadata with data.name=mnist"),
        ([*WORDS, "partition.new_clients=[a, b]"], "num_new_clients=2"),
        ([*WORDS, "partition.new_clients=[a, a]"], "different entries"),
        ([*WORDS, "partition.num_train_classes=3"], "no partition.num_train_classes with"),
    ],
)
def test_settings_that_cannot_work_are_refused(words: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config("smoke", words)
    assert expected in str(error.value)


def test_drawn_hashes_are_written_beside_the_arrays(root: Path) -> None:
    stored = json.loads((root / "fonts" / "drawn.json").read_text())
    assert set(stored["sha256"]) == {"names", "glyphs_16", "glyphs_28"}
