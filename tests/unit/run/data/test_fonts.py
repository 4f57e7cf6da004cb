"""Fonts as clients, with the fonts that matplotlib brings: drawn, stored, partitioned."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest

from pipeline.config.data import DataConfig
from pipeline.config.load import load_config
from pipeline.data.datasets import describe, load, load_clients, load_stored
from pipeline.data.fetch import fetch
from pipeline.data.glyphs import CHARACTERS, arriving, draw_fonts, files_hash
from pipeline.federation.setup import partitioned
from spire_core.errors import ConfigError, DataError

FONTS = Path(matplotlib.get_data_path(), "fonts", "ttf")
FILES = {
    name: (FONTS / f"{file}.ttf").read_bytes()
    for name, file in (("book", "DejaVuSans"), ("fat", "DejaVuSans-Bold"))
}


def test_glyphs_fill_their_square_in_the_order_of_names() -> None:
    drawn, again = draw_fonts(FILES), draw_fonts(dict(reversed(FILES.items())))
    assert files_hash(FILES) == files_hash(dict(reversed(FILES.items())))
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


def test_variants_of_a_font_arrive_together() -> None:
    names = sorted(family * 4 + weight for family in "ABCDEFGHIJKLMN" for weight in ("b", "t"))
    chosen = arriving(names)
    assert 0 < chosen.sum() <= len(names) // 4
    of_family = {name[:4]: chosen[at] for at, name in enumerate(names)}
    assert [of_family[name[:4]] for name in names] == chosen.tolist()


def test_stored_fonts_are_clients(fonts_root: Path) -> None:
    data = load_clients(DataConfig(name="fonts", root=str(fonts_root)))
    assert data.clients is not None
    assert data.captions is not None
    names = data.clients.names
    assert names == tuple(sorted(names))
    assert data.images.shape == (62 * len(names), 1, 28, 28)
    drawn, at = draw_fonts({"fat": FILES["fat"]}), names.index("fat")
    large = data.images.reshape(-1, 62, 28, 28)
    np.testing.assert_array_equal(large[at], drawn["glyphs_28"][0])
    small = load_clients(DataConfig(name="fonts", root=str(fonts_root), image_size=16))
    np.testing.assert_array_equal(
        small.images.reshape((*large.shape[:2], 16, 16))[at], drawn["glyphs_16"][0]
    )
    assert small.sha256 != data.sha256
    assert data.captions[62 + 10] == "latin capital letter a"
    assert data.class_names[data.labels[62 + 10]] == "A"
    assert data.clients.owner[62 + 10] == 1
    assert describe("fonts", fonts_root)["ok"]


def test_the_splits_share_no_font(fonts_root: Path) -> None:
    both = load_clients(DataConfig(name="fonts", root=str(fonts_root)))
    assert both.clients is not None
    arrives = arriving(both.clients.names)
    assert arrives.sum() == 1
    for split, wanted in (("train", ~arrives), ("test", arrives)):
        data = load_stored("fonts", fonts_root, split)
        rows = np.repeat(wanted, 62)
        np.testing.assert_array_equal(data.images, both.images[rows])
        assert data.captions == tuple(np.array(both.captions)[rows].tolist())
    assert load(DataConfig(name="fonts", root=str(fonts_root)), "train").clients is None


def test_other_files_are_refused(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / f"{name}.TTF").write_bytes(content)
    with pytest.raises(DataError, match=r"font files with SHA-256.*got 2 files .*fetch fonts"):
        fetch("fonts", tmp_path / "store", tmp_path, lambda text: None)
    assert not (tmp_path / "store" / "fonts.npz").exists()


WORDS = ["data=fonts", "data.image_size=16", "partition=natural", "federation.cohort_size=2"]
WORDS += ["federation.num_clients=4", "federation.num_new_clients=1", "adapt.num_images=8"]


def test_hidden_characters_are_shown_by_nobody_and_hidden_ones_by_no_new_client(
    fonts_root: Path,
) -> None:
    more = [f"data.root={fonts_root}", "partition.hidden=[Q]"]
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
