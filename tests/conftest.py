"""What all tests share: one torch thread, real MNIST, one new database of MLflow, a package."""

import gc
import os
import re
import signal
import tomllib
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings

from pipeline.config.tracking import TrackingConfig
from pipeline.data.datasets import describe
from pipeline.data.fetch import fetch
from pipeline.data.glyphs import draw_fonts
from pipeline.tracking.tracker import check_store

torch.set_num_threads(1)
settings.register_profile("same examples each time", derandomize=True, database=None)
settings.load_profile("same examples each time")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as of a shell's background processes
    signal.signal(signal.SIGINT, lambda *_: None)  # what starts here hears it again

EXTENDING = Path(__file__).parents[1] / "docs" / "extending.md"
FONTS = {  # by names that are not variants of each other
    "book": "DejaVuSans",
    "fat": "DejaVuSans-Bold",
    "mono": "DejaVuSansMono",
    "roman": "DejaVuSerif",
    "times": "STIXGeneral",
}
NUM_BETWEEN = 3  # files of unit tests after each file that waits


def pytest_collection_finish() -> None:
    """Have Python's collector leave alone what is imported by now, half a second of its work."""
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let files that wait, for Ray and servers, alternate with unit tests, which compute.

    Processes that test side by side take a file each, in this order. Whole experiments take longest
    among the unit tests, and begin first, so that no process is long without work at the end.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    folders = [Path(__file__).with_name(name) for name in ("cluster", "e2e")]
    waiting = [path for path in files if path.parent in folders]
    computing = [path for path in files if path not in waiting]
    others = iter(sorted(computing, key=lambda path: path.parent.name != "experiment"))
    order = [path for one in waiting for path in (one, *islice(others, NUM_BETWEEN))]
    items[:] = [item for path in (*order, *others) for item in files[path]]


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of this session, which processes that test side by side have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with real MNIST: $SPIRE_DATA if it is there, else fetched once.

    Processes that test side by side share it: whoever comes second waits for the first.
    """
    stored = describe("mnist")
    if stored["ok"]:
        return Path(stored["path"]).parent
    root = shared_folder(tmp_path_factory) / "spire_data"
    fetch("mnist", root)
    return root


@pytest.fixture(scope="session")
def fonts_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with a few fonts that matplotlib brings, drawn once."""
    import matplotlib

    folder = Path(matplotlib.get_data_path(), "fonts", "ttf")
    files = {name: (folder / f"{file}.ttf").read_bytes() for name, file in FONTS.items()}
    root = tmp_path_factory.mktemp("fonts_root")
    arrays: dict[str, Any] = draw_fonts(files)
    np.savez(root / "fonts.npz", **arrays)
    return root


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow that holds no runs, to be copied: making one takes it seconds."""
    path = shared_folder(tmp_path_factory) / "new_database" / "mlflow.db"
    check_store(TrackingConfig(uri=f"sqlite:///{path}"))
    return path


def page_files(page: Path) -> dict[str, str]:
    """Return the Python files on a page; a block's first line names the file that it belongs to."""
    files: dict[str, str] = {}
    for name, text in re.findall(r"```python\n# (\w+\.py)\n(.*?)```", page.read_text(), re.DOTALL):
        files[name] = files.get(name, "") + text
    return files


@pytest.fixture(scope="session")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the package of docs/extending.md is installed, as pip would."""
    folder = tmp_path_factory.mktemp("site")
    for name, text in page_files(EXTENDING).items():
        (folder / name).write_text(text)
    [toml] = re.findall(r"```toml\n(.*?)```", EXTENDING.read_text(), re.DOTALL)
    project = tomllib.loads(toml)["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(head)
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {place}" for name, place in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return folder
