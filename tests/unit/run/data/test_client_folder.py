"""The user's own images with their owners: read from folders and from metadata, or refused."""

import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import Table
from pyarrow.parquet import write_table

from pipeline.cli.main import main
from pipeline.cli.setup_text import partition_json, partition_text
from pipeline.config.data import DataConfig
from pipeline.config.load import load_config
from pipeline.data.datasets import ImageData, load, load_clients
from pipeline.federation.partitioning import partitioned
from spire_core.errors import ConfigError, DataError

CLIENTS = {"ann": 5, "bob": 3, "cid": 8}


def paint(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, 0, 0)).save(path)


def values(data: ImageData) -> list[int]:
    """The red of each image, by which the tests tell images apart."""
    return data.images[:, 0, 0, 0].tolist()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One folder per client, with images of different values; `cid` has classes."""
    value = 0
    for client, num in CLIENTS.items():
        for i in range(num):
            within = f"{'cat' if i % 2 else 'dog'}/{i}.png" if client == "cid" else f"{i}.png"
            paint(tmp_path / "own" / client / within, value := value + 10)
    return tmp_path / "own"


def rows(folder: Path) -> list[dict[str, str]]:
    """Correct metadata of the folder, with other clients than its own."""
    files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    return [
        {"path": file, "client": f"c{i % 2}", "caption": f"picture {i % 3}"}
        for i, file in enumerate(files)
    ]


def write(folder: Path, records: list[dict], name: str = "meta.csv") -> None:
    if name.endswith(".csv"):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
    elif name.endswith(".parquet"):
        write_table(Table.from_pylist(records), folder / name)
    else:
        (folder / name).write_text("".join(json.dumps(r) + "\n" for r in records))


def listed(folder: Path, name: str = "meta.csv", **more: str) -> ImageData:
    config = DataConfig(name="folder", path=str(folder), image_size=8, metadata=name, **more)
    return load_clients(config)


def test_a_top_folder_is_a_client(folder: Path) -> None:
    data = load_clients(DataConfig(name="folder", path=str(folder), image_size=8))
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
    data = load_clients(DataConfig(name="folder", path=str(folder), image_size=8))
    assert data.clients is not None
    assert data.clients.is_test is not None
    found = [data.clients.names[i] for i in data.clients.owner]
    assert sorted(zip(found, data.clients.is_test.tolist(), values(data), strict=True)) == [
        ("ann", False, 1),
        ("ann", True, 3),
        ("bob", False, 2),
    ]


@pytest.mark.parametrize("name", ["meta.csv", "meta.jsonl", "meta.parquet"])
def test_metadata_say_whose_an_image_is_and_what_it_shows(folder: Path, name: str) -> None:
    write(folder, rows(folder), name)
    data = listed(folder, name)
    assert data.clients is not None
    assert data.clients.names == ("c0", "c1")
    assert data.clients.owner.tolist() == [i % 2 for i in range(16)]
    assert data.captions == tuple(f"picture {i % 3}" for i in range(16))
    assert data.class_names == ("image",)
    order = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    red = [Image.open(folder / path).getpixel((0, 0))[0] for path in order]  # type: ignore[index]
    assert values(data) == red


def test_columns_may_have_other_names_and_text_of_any_script(folder: Path) -> None:
    records = [
        {"path": r["path"], "autor": f"שלום {i % 2} <b>$x_1$</b>", "Titel": "Öl auf Leinwand"}
        for i, r in enumerate(rows(folder))
    ]
    write(folder, records)
    data = listed(folder, clients="autor", captions="Titel")
    assert data.clients is not None
    assert data.clients.names == ("שלום 0 <b>$x_1$</b>", "שלום 1 <b>$x_1$</b>")
    assert set(data.captions or ()) == {"Öl auf Leinwand"}
    write(folder, [r | {"class": f"k{i % 4}"} for i, r in enumerate(records)])
    data = listed(folder, clients="autor")
    assert data.captions is None  # no column of that name
    assert data.labels.tolist() == [i % 4 for i in range(16)]


def test_the_hash_depends_on_clients_captions_and_split(folder: Path) -> None:
    first = rows(folder)
    versions = [
        first,
        [first[0] | {"client": "c1"}, *first[1:]],
        [first[0] | {"caption": "another"}, *first[1:]],
        [r | {"split": "test" if i < 8 else "train"} for i, r in enumerate(first)],
        [r | {"split": "test" if i < 9 else "train"} for i, r in enumerate(first)],
    ]
    hashes = []
    for records in versions:
        write(folder, records)
        hashes.append(listed(folder).sha256)
    write(folder, first)
    assert hashes[0] == listed(folder).sha256
    assert len(set(hashes)) == len(versions)


def test_other_partitions_take_the_training_images_of_metadata(folder: Path) -> None:
    records = [r | {"split": "test" if i < 4 else "train"} for i, r in enumerate(rows(folder))]
    write(folder, records)
    config = DataConfig(name="folder", path=str(folder), image_size=8, metadata="meta.csv")
    train, test = load(config, "train"), load(config, "test")
    assert (len(train.images), len(test.images)) == (12, 4)
    assert values(test) + values(train) == values(listed(folder))
    assert test.captions == tuple(r["caption"] for r in records[:4])


def test_clients_and_captions_are_shown(folder: Path) -> None:
    write(folder, rows(folder))
    words = ["data=folder", f"data.path={folder}", "data.image_size=8", "data.metadata=meta.csv"]
    words += ["partition=natural", "partition.min_size=2", "federation.cohort_size=1"]
    words += ["federation.num_clients=1", "federation.num_new_clients=1"]
    data, partition = partitioned(load_config("smoke", words))
    shown = partition_json(partition, data)
    assert {client["name"] for client in shown["clients"]} == {"c0", "c1"}
    for client, split in zip(
        shown["clients"], (*partition.train_clients, *partition.new_clients), strict=True
    ):
        assert client["captions"] == sorted({(data.captions or ())[i] for i in split.train})
    text = partition_text(shown)
    assert "captions to train on" in text
    assert "picture 0, picture 1, ... (3)" in text


def test_the_vocabulary_that_is_shown_is_a_setting(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """YAML and the shell take other meanings of some words, which have to arrive as they are."""
    captions = ["No: it's", "a [b] 3", "on, off 1e5", "NULL $x"]
    write(folder, [r | {"caption": captions[i % 4]} for i, r in enumerate(rows(folder))])
    words = ["smoke", "data=folder", f"data.path={folder}", "data.image_size=8"]
    words += ["data.metadata=meta.csv", "partition=natural", "partition.min_size=2"]
    words += ["federation.cohort_size=1", "federation.num_clients=1"]
    words += ["federation.num_new_clients=1"]
    assert main(["data", "show", *words]) == 0
    [typed] = shlex.split(capsys.readouterr().out.splitlines()[-1])
    found = load_config("smoke", ["model.text=words", typed]).model.words
    assert found == ("$x", "1e5", "3", "[b]", "a", "it's", "no:", "null", "off", "on,")
    assert main(["data", "show", *words, "model.text=words", typed]) == 0
    assert "model.words" not in capsys.readouterr().out


def broken(at: int, **cells: object):
    """A change of one row of correct metadata."""
    return lambda records: [r | cells if i == at else r for i, r in enumerate(records)]


MALFORMED = {
    "missing file": (broken(2, path="ann/none.png"), "row 3 of .*got no file"),
    "a folder": (broken(0, path="ann"), "row 1 of .*got no file"),
    "empty path": (broken(0, path=""), "expected a text as path in row 1"),
    "outside": (broken(1, path="../secret.png"), "the path in row 2 of .*below"),
    "absolute": (broken(1, path="/etc/passwd"), "the path in row 2 of .*below"),
    "NUL": (broken(1, path="a\0b.png"), "path without control characters in row 2"),
    "doubled": (broken(3, path="ann/0.png"), "each image once .*rows 1 and 4"),
    "doubled by detour": (broken(3, path="bob/../ann/0.png"), "each image once .*rows 1 and 4"),
    "empty client": (broken(4, client="  "), "expected a text as client in row 5"),
    "long client": (broken(4, client="x" * 10_000), "at most 200 characters as client .*10000"),
    "empty caption": (broken(5, caption=""), "expected a text as caption in row 6"),
    "long caption": (broken(5, caption="x " * 5_000), "at most 500 characters as caption"),
    "control": (broken(5, caption="a\x1b[31mred"), "caption without control characters in row 6"),
    "right to left": (broken(5, client="a\u202eb"), "client without control characters in row 6"),
    "newline": (broken(5, caption="a\nb"), "caption without control characters"),
    "split": (broken(6, split="validation"), "split train or test in row 7 .*'validation'"),
    "some classes": (broken(6, **{"class": "a"}), "a class in every row of .* or in none"),
    "some splits": (broken(6, split="test"), "a split for every image or for none"),
    "client a list": (broken(6, client=["a"]), "expected a text as client in row 7"),
    "client true": (broken(6, client=True), "expected a text as client in row 7"),
    "no rows": (lambda records: [], "expected rows in"),
    "no client": (lambda records: [{"path": r["path"]} for r in records], "a column 'client'"),
    "no path": (lambda records: [{"file": "a", "client": "b"}], "a column 'path'"),
    "some captions": (
        lambda records: [{"path": records[0]["path"], "client": "x"}, *records[1:]],
        "a caption in every row",
    ),
    "not an object": (lambda records: [*records, 7], "got 7 for an object"),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_malformed_metadata_are_one_sentence(folder: Path, fault: str) -> None:
    change, expected = MALFORMED[fault]
    write(folder, change(rows(folder)), "meta.jsonl")
    with pytest.raises(DataError, match=expected) as error:
        listed(folder, "meta.jsonl")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("meta.csv", b"path,client\nann/0.png\n", "expected a text as client in row 1"),
        ("meta.csv", b"path,client\nann/0.png,a,b,c\n", "more cells than columns in row 1"),
        ("meta.csv", b'path,client\n"ann/0.png,a\n', "expected CSV"),
        ("meta.csv", b"path,client\n\xff\xfe,a\n", "expected CSV"),
        ("meta.csv", b"path,client,client\nann/0.png,a,b\n", "got 2 columns named 'client'"),
        ("meta.jsonl", b'{"path": "a", "client": 1, "client": 2}', "got 2 columns named 'client'"),
        ("meta.csv", b"", "expected rows"),
        ("meta.jsonl", b'{"path": ', "expected CSV, JSON lines"),
        ("meta.jsonl", b"[" * 100_000, "expected CSV, JSON lines"),
        ("meta.parquet", b"PAR1 and no more", "expected CSV, JSON lines or Parquet"),
        ("meta.txt", b"path,client\n", r"\.csv, \.jsonl or \.parquet"),
        ("none.csv", None, "expected CSV, JSON lines"),
        ("../meta.csv", None, "expected data.metadata below"),
    ],
)
def test_a_file_that_is_no_metadata_is_one_sentence(
    folder: Path, name: str, content: bytes | None, expected: str
) -> None:
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=expected) as error:
        listed(folder, name)
    assert "\n" not in str(error.value)


def test_columns_of_parquet_that_have_one_name_are_one_sentence(folder: Path) -> None:
    cells = [["ann/0.png"], ["a"], ["b"]]
    write_table(Table.from_arrays(cells, names=["path", "client", "client"]), folder / "m.parquet")
    with pytest.raises(DataError, match="got 2 columns named 'client': correct it"):
        listed(folder, "m.parquet")


def test_columns_without_a_name_are_not_read(folder: Path) -> None:
    (folder / "meta.csv").write_text("path,client,,\nann/0.png,a,1,2\n")
    assert len(listed(folder).images) == 1


def test_cells_of_parquet_that_are_no_text_are_one_sentence(folder: Path) -> None:
    for faulty, expected in (
        ({"caption": None}, "expected a text as caption in row 4"),
        ({"client": None}, "expected a text as client in row 4"),
    ):
        write(folder, broken(3, **faulty)(rows(folder)), "meta.parquet")
        with pytest.raises(DataError, match=expected):
            listed(folder, "meta.parquet")
    write(folder, [row | {"client": [1.5]} for row in rows(folder)], "meta.parquet")
    with pytest.raises(DataError, match="expected a text as client in row 1"):
        listed(folder, "meta.parquet")


def test_folders_that_hold_no_clients_are_refused(folder: Path, tmp_path: Path) -> None:
    def at(path: Path) -> DataConfig:
        return DataConfig(name="folder", path=str(path), image_size=8)

    with pytest.raises(DataError, match="expected a folder of images in data"):
        load_clients(at(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="one subfolder of images per client"):
        load_clients(at(tmp_path / "empty"))
    (folder / "dan").mkdir()
    with pytest.raises(DataError, match=r"expected images in .*dan, got none"):
        load_clients(at(folder))
    (folder / "dan" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="expected an image"):
        load_clients(at(folder))
    (folder / "dan" / "0.png").unlink()
    (folder / "dan" / "loop").symlink_to(folder)
    with pytest.raises(DataError, match="a link to a folder around it"):
        load_clients(at(folder))


def test_folders_behind_links_are_read(folder: Path, tmp_path: Path) -> None:
    paint(tmp_path / "else" / "0.png", 201)
    (folder / "ann" / "cat").symlink_to(tmp_path / "else")
    (folder / "dan").symlink_to(tmp_path / "else")
    data = load_clients(DataConfig(name="folder", path=str(folder), image_size=8))
    assert data.clients is not None
    assert data.clients.names == (*CLIENTS, "dan")
    of_links = np.array(values(data)) == 201
    assert data.clients.owner[of_links].tolist() == [0, 3]
    assert [data.class_names[at] for at in data.labels[of_links]] == ["cat", "image"]


def test_hidden_captions_are_hidden_however_they_are_spelled(folder: Path) -> None:
    captions = ["Red  car", "red car", "RED bus", "tree"]
    write(folder, [r | {"caption": captions[i // 2 % 4]} for i, r in enumerate(rows(folder))])
    words = ["data=folder", f"data.path={folder}", "data.image_size=8", "data.metadata=meta.csv"]
    words += ["partition=natural", "partition.min_size=2", "federation.cohort_size=1"]
    words += ["federation.num_clients=1", "federation.num_new_clients=1"]
    data, partition = partitioned(load_config("smoke", [*words, "partition.hidden=['red *']"]))
    for client in (*partition.train_clients, *partition.new_clients):
        assert {(data.captions or ())[i] for i in client.train} == {"tree"}
        assert len(client.train) + len(client.test) == 8


def test_hidden_folders_are_no_clients(folder: Path) -> None:
    paint(folder / ".ipynb_checkpoints" / "0.png", 201)
    paint(folder / "ann" / ".ipynb_checkpoints" / "0.png", 201)
    data = load_clients(DataConfig(name="folder", path=str(folder), image_size=8))
    assert data.clients is not None
    assert data.clients.names == tuple(CLIENTS)
    assert 201 not in values(data)


def test_images_of_clients_that_are_left_out_are_told_of(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paint(folder / "ann" / "5.gif", 0)
    paint(folder / "6.png", 0)
    data = load_clients(DataConfig(name="folder", path=str(folder), image_size=8))
    assert len(data.images) == sum(CLIENTS.values())
    found = "1 .gif (save them as .png), 1 beside the client folders (move them there)"
    assert f"images in {folder} are left out: {found}" in caplog.text


@pytest.mark.parametrize(("splits", "share"), [(True, 0.5), (True, 0.25), (False, 0.5)])
def test_a_share_of_test_images_that_the_data_name_is_told_of(
    splits: bool, share: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train/ann", "test/ann", "train/bob", "test/bob") if splits else ("ann", "bob"):
        for i in range(8):
            paint(tmp_path / name / f"{i}.png", 0)
    words = ["data=folder", f"data.path={tmp_path}", "data.image_size=8", "partition=natural"]
    words += ["partition.min_size=2", "federation.num_clients=1", "federation.num_new_clients=1"]
    words += ["federation.cohort_size=1"]
    partitioned(load_config("smoke", [*words, f"partition.test_fraction={share}"]))
    said = [record.getMessage() for record in caplog.records]
    assert any("partition.test_fraction=0.5 counts for" in text for text in said) == (
        splits and share == 0.5
    )


def test_images_beside_two_splits_of_clients_are_told_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("train/ann/0.png", "test/ann/1.png", "2.png"):
        paint(tmp_path / name, 0)
    load_clients(DataConfig(name="folder", path=str(tmp_path), image_size=8))
    assert [record.getMessage() for record in caplog.records] == [
        f"images in {tmp_path} are left out: 1 beside train and test (move them there)"
    ]


def test_data_without_clients_are_refused() -> None:
    with pytest.raises(ConfigError, match="clients of its own, fonts or folder, got mnist"):
        load_clients(DataConfig())
