"""Fetching: what is stored is the published data set, whatever the source."""

import gzip
import hashlib
import http.server
import json
import pickle
import shutil
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, MNIST

from pipeline.config.data import DataConfig
from pipeline.data.datasets import load_stored
from pipeline.data.fetch import fetch, fetch_for
from pipeline.data.originals import CIFAR_BATCHES, IDX_FILES, answers, from_folder, read_pngs
from spire_core.errors import ConfigError, DataError


def quiet(text: object) -> None:
    pass


@pytest.fixture(scope="module")
def originals(mnist_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the original files of MNIST, zipped as they are published."""
    folder = tmp_path_factory.mktemp("originals")
    with np.load(mnist_root / "mnist.npz") as stored:
        for key, name in IDX_FILES.items():
            array = stored[key].squeeze()
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            content = header + array.astype(np.uint8).tobytes()
            (folder / f"{name}.gz").write_bytes(gzip.compress(content, 1))
    return folder


def assert_stored(root: Path, mnist_root: Path) -> None:
    """MNIST is stored, and nothing else lies there."""
    for split in ("train", "test"):
        ours, known = (load_stored("mnist", one, split) for one in (root, mnist_root))
        np.testing.assert_array_equal(ours.images, known.images)
        np.testing.assert_array_equal(ours.labels, known.labels)
    assert {path.name for path in root.iterdir()} == {"mnist.npz", ".mnist.lock"}


@pytest.mark.slow
def test_original_files_anywhere_below_a_folder_are_a_source(
    tmp_path: Path, originals: Path, mnist_root: Path
) -> None:
    raw = tmp_path / "mine" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in originals.iterdir():
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    log: list[object] = []
    root = tmp_path / "store"
    assert fetch("mnist", root, tmp_path / "mine", log.append) == root / "mnist.npz"
    assert_stored(root, mnist_root)
    assert fetch("mnist", root, log=log.append) == root / "mnist.npz"
    assert log[-1] == f"mnist: already in {root / 'mnist.npz'}, intact"
    (root / "mnist.npz").write_bytes((root / "mnist.npz").read_bytes()[:-100])
    fetch("mnist", root, originals, log.append)
    assert any("is damaged" in str(text) for text in log)
    assert_stored(root, mnist_root)


def test_a_wrong_original_is_never_stored(tmp_path: Path, originals: Path) -> None:
    for file in originals.iterdir():
        (tmp_path / file.name).symlink_to(file)
    file = tmp_path / f"{IDX_FILES['test_labels']}.gz"
    content = bytearray(gzip.decompress(file.read_bytes()))
    content[-1] ^= 1
    file.unlink()
    file.write_bytes(gzip.compress(content, 1))
    with pytest.raises(DataError, match=r"original files, .* and run `spire data fetch mnist"):
        fetch("mnist", tmp_path / "store", tmp_path, quiet)
    assert [path.name for path in (tmp_path / "store").iterdir()] == [".mnist.lock"]


@pytest.fixture
def server(originals: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server on this machine for the original files."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = partial(Quiet, directory=str(originals))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()


def test_torchvision_downloads_where_its_server_answers(
    tmp_path: Path,
    server: str,
    originals: Path,
    mnist_root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = [originals / f"{name}.gz" for name in IDX_FILES.values()]
    sums = [(file.name, hashlib.md5(file.read_bytes()).hexdigest()) for file in files]
    monkeypatch.setattr(MNIST, "mirrors", [server])
    monkeypatch.setattr(MNIST, "resources", sums)
    log: list[str] = []
    fetch("mnist", tmp_path, log=log.append)
    assert log == ["mnist: trying torchvision", f"mnist: stored in {tmp_path / 'mnist.npz'}"]
    assert_stored(tmp_path, mnist_root)
    assert socket.getdefaulttimeout() is None


def test_no_answer_is_waited_for_a_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a name look-up hangs, which no time-out of a socket ends."""
    monkeypatch.setattr("pipeline.data.originals.ANSWER_S", 0.2)
    monkeypatch.setenv("no_proxy", "*")
    is_over, start = threading.Event(), time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not answers(f"http://127.0.0.1:{silent.getsockname()[1]}/")
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: is_over.wait(60) and [])
    assert not answers("http://nobody:1/")
    assert time.monotonic() - start < 30
    is_over.set()


def test_own_images_are_no_originals(
    tmp_path: Path, originals: Path, mnist_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIRE_DATA", str(mnist_root))
    fetch_for(DataConfig(path=str(originals)), quiet)
    fetch_for(DataConfig(path=str(tmp_path)), quiet, begins=False)
    with pytest.raises(ConfigError, match=r"original files of mnist .* or data\.name=folder"):
        fetch_for(DataConfig(path=str(tmp_path)), quiet)
    with pytest.raises(DataError, match="expected a folder of images"):
        fetch_for(DataConfig("folder", path=str(tmp_path / "nowhere"), image_size=8), quiet)


def colours() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, num in (("train", 10), ("test", 2)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (num, 3, 32, 32), dtype=np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 10, num)
    return arrays


def batches(arrays: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, images and labels of each of CIFAR-10's files."""
    for split, names in CIFAR_BATCHES.items():
        parts = (np.array_split(arrays[f"{split}_{kind}"], len(names)) for kind in KINDS)
        yield from zip(names, *parts, strict=True)


KINDS = ("images", "labels")


def test_pngs_of_the_package_are_read(tmp_path: Path) -> None:
    arrays = colours()
    for name, images, _ in batches(arrays):
        pixels = images.transpose(0, 2, 3, 1).reshape(len(images), 1024, 3)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    for split in CIFAR_BATCHES:
        labels = json.dumps(arrays[f"{split}_labels"].tolist())
        (tmp_path / f"{split}_lables.json").write_text(labels)
    found = read_pngs(tmp_path)
    for key, array in arrays.items():
        np.testing.assert_array_equal(found[key], array)


def test_known_pickles_of_cifar_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays, folder = colours(), tmp_path / "mine" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    for name, images, labels in batches(arrays):
        entry = {"data": images.reshape(len(images), -1), "labels": labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(entry))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a"]}))
    known = {one.name: hashlib.md5(one.read_bytes()).hexdigest() for one in folder.iterdir()}
    for split, names in CIFAR_BATCHES.items():
        monkeypatch.setattr(CIFAR10, f"{split}_list", [[name, known[name]] for name in names])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": known["batches.meta"]})
    with tarfile.open(tmp_path / CIFAR10.filename, "w:gz") as tar:
        tar.add(folder, CIFAR10.base_folder)
    shutil.rmtree(folder)
    (tmp_path / CIFAR10.filename).replace(tmp_path / "mine" / CIFAR10.filename)
    (tmp_path / "scratch").mkdir()
    found = from_folder("cifar10", tmp_path / "mine", tmp_path / "scratch")
    for key, array in arrays.items():
        np.testing.assert_array_equal(found[key], array)


def test_pickles_are_not_opened_unless_they_are_the_known_ones(tmp_path: Path) -> None:
    folder = tmp_path / "mine" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    opened = tmp_path / "opened"
    (folder / "data_batch_1").write_bytes(f"cos\nsystem\n(S'touch {opened}'\ntR.".encode())
    with pytest.raises(DataError, match="not found or corrupted"):
        fetch("cifar10", tmp_path / "store", tmp_path / "mine", quiet)
    assert not opened.exists()
