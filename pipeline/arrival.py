"""A client that arrives after a run has ended: it fits its own part on the finished backbone.

Its images come from a data set's test split, which no run trains on, or from a folder.
N images of C channels, K classes of the run.
"""

import contextlib
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from pipeline.datasets import load_stored, store_root
from pipeline.diagnosis import Diagnosis, adaptation_diagnosis
from pipeline.disk import open_own, try_lock
from pipeline.image_folder import opened_image
from pipeline.image_grids import image_grid
from pipeline.known_datasets import SPECS
from pipeline.messages import WorkerSetup
from pipeline.ray_job import expanded
from pipeline.resize import resized
from pipeline.saved_run import SavedRun, client_path, save_client
from pipeline.worker import ClientWorker
from spire_core.adapt import AdaptPoint
from spire_core.errors import ConfigError, DataError, RunError
from spire_core.extractor import auto_extractor
from spire_core.methods import CLIENT_EMB
from spire_core.partition import ClientSplit, Partition
from spire_core.rng import numpy_generator
from spire_core.training_config import AdaptConfig

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
MIN_IMAGES = 3  # one to learn from, two to measure on


@dataclass(frozen=True)
class Arrival:
    """A client that has arrived: its id, its curve over epochs, and the files that were written."""

    client_id: int
    curve: tuple[AdaptPoint, ...]
    path: Path
    grid_path: Path
    kept_epoch: int
    num_train: int
    num_test: int
    num_trained: int
    diagnosis: Diagnosis | None


def adapt_arrival(
    run: SavedRun,
    images: np.ndarray,
    config: AdaptConfig,
    client_id: int | None = None,
    mixture: np.ndarray | None = None,
) -> Arrival:
    """Fit a new client's part on its uint8 images (N, C, H, W) and save it with the run.

    A share of the images, the run's `partition.test_fraction`, is held out to measure on. `mixture`
    (K,) is the share of each class among the images, if that is known; `client_id` None takes the
    next free id. Raises RunError if the id is taken or the method has no personal part, DataError
    for too few images.
    """
    if not run.config.method.record.adapt_parts:
        raise RunError(
            f"expected a method with a personal part, got {run.config.method.name}: "
            "name a run of spire, fedavg_ft or shared_rep"
        )
    with (
        reserved_id(run, client_id) as client_id,
        tempfile.TemporaryDirectory(prefix="spire-") as scratch,
    ):
        split = _split(len(images), run, config.num_images, client_id)
        folder = Path(scratch, "run")  # beside it lie features of the client's images
        folder.mkdir()
        worker = _worker(run, images, split, mixture, folder)
        weights, mean_emb = run.weights.numpy(), _mean_emb(run, config)
        own = worker.real_features(client_id)  # for want of the population's, see `_own`
        report = worker.adapt(client_id, weights, config, mean_emb, own)
        path = save_client(run.folder, client_id, worker.private_state(client_id))
        grid = Image.fromarray(image_grid(report.after.images, 8))
        grid.save(path.with_suffix(".png"))
    return Arrival(
        client_id,
        tuple(_own(point) for point in report.curve),
        path,
        path.with_suffix(".png"),
        report.kept_epoch,
        len(split.train),
        len(split.test),
        report.num_trained,
        adaptation_diagnosis([report]),
    )


@contextlib.contextmanager
def reserved_id(run: SavedRun, client_id: int | None = None) -> Iterator[int]:
    """Yield the given id, or the next free one, which no other process gets until the end.

    RunError if the given one is taken.
    """
    federation = run.config.federation
    first = federation.num_clients + federation.num_new_clients
    next_id = max([first - 1, *run.client_ids]) + 1
    for wanted in itertools.count(next_id) if client_id is None else (client_id,):
        path = client_path(run.folder, wanted)
        if wanted < first or path.exists():
            continue
        path.parent.mkdir(exist_ok=True)
        with open_own(path.with_suffix(".lock"), "w") as lock:
            if try_lock(lock) and not path.exists():
                yield wanted
                path.with_suffix(".lock").unlink()
                return
    next_id = max(next_id, (client_id or 0) + 1)
    raise RunError(f"expected a client id that is free, got {client_id}: {next_id} is the next")


def _split(num_images: int, run: SavedRun, limit: int | None, client_id: int) -> ClientSplit:
    """Return which images the client learns from (at most `limit`) and which it is measured on."""
    if num_images < MIN_IMAGES:
        raise DataError(
            f"expected at least {MIN_IMAGES} images of the new client, got {num_images}: add some"
        )
    order = numpy_generator(run.config.seed, "arrival", client_id).permutation(num_images)
    wanted = max(2, round(run.config.partition.test_fraction * num_images))
    num_test = min(wanted, num_images - 1)
    return ClientSplit(client_id, order[num_test:][:limit], order[:num_test])


def _worker(
    run: SavedRun,
    images: np.ndarray,
    split: ClientSplit,
    mixture: np.ndarray | None,
    folder: Path,
) -> ClientWorker:
    """Return a worker that simulates this one client, as it would have in the run."""
    if mixture is None:
        mixture = np.full(len(run.class_names), np.nan)
    name = auto_extractor(run.config.data.name, run.config.eval.extractor)
    partition = Partition((), (split,))
    setup = WorkerSetup(run.config, {split.client_id: mixture}, partition, name, folder)
    has_gpu = run.config.resources.device != "cpu" and torch.cuda.is_available()
    return ClientWorker(setup, images, "cuda" if has_gpu else "cpu")


def _mean_emb(run: SavedRun, config: AdaptConfig) -> Tensor | None:
    if config.init != "mean" or not run.config.method.record.has_embedding:
        return None
    ids = [c for c in run.client_ids if c < run.config.federation.num_clients]
    return torch.stack([run.client_state(c)[CLIENT_EMB] for c in ids]).mean(0)


def _own(point: AdaptPoint) -> AdaptPoint:
    """Return a point without what needs more than is at hand: the population, unknown classes."""
    if point.observed is None:
        return point
    kept = {k: v for k, v in point.observed.items() if k != "population_kid" and not np.isnan(v)}
    return replace(point, observed=kept)


# --- the images of a new client -----------------------------------------------------------------


def load_arrival(
    run: SavedRun, data: str, classes: Sequence[str] = (), root: str | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return a new client's uint8 images (N, C, H, W) at the run's size, and their mixture (K,).

    `data` is the name of a data set, whose test split is taken, or a folder of images, flat or with
    one subfolder per class; `classes` limits it to classes by name or number. The mixture is None
    if the classes are not all of the run's. Raises ConfigError if `data` is neither or a class is
    unknown, DataError if the images do not fit the run.
    """
    if data in SPECS:
        images, names = _dataset_images(run, data, classes, root)
    elif (folder := expanded(data, "--data")).is_dir():
        images, names = _folder_images(run, folder, classes)
    else:
        raise ConfigError(
            f"expected a data set out of {', '.join(SPECS)} or a folder of images, got {data!r}: "
            "name one of them"
        )
    return images, _mixture(names, run.class_names)


def _dataset_images(
    run: SavedRun, name: str, classes: Sequence[str], root: str | None
) -> tuple[np.ndarray, list[str]]:
    stored = load_stored(name, store_root(root), "test")
    if stored.images.shape[1] != run.image_shape[0]:
        raise DataError(
            f"expected images of {run.image_shape[0]} channels, got {stored.images.shape[1]} in "
            f"{name}: choose a data set like the one that the run was trained on"
        )
    names = [stored.class_names[label] for label in stored.labels]
    chosen = _chosen(names, stored.class_names, classes)
    return resized(stored.images[chosen], run.image_shape[-1]), [names[i] for i in chosen]


def _folder_images(
    run: SavedRun, folder: Path, classes: Sequence[str]
) -> tuple[np.ndarray, list[str]]:
    found = (p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    files = sorted(p for p in found if p.is_file())
    names = ["" if p.parent == folder else p.parent.name for p in files]
    chosen = _chosen(names, sorted({name for name in names if name}), classes)
    if not chosen:
        raise DataError(f"expected images in {folder}, got none: add some, such as .png or .jpg")
    images = np.stack([_decode(files[i], run) for i in chosen])
    return images, [names[i] for i in chosen]


def _chosen(names: Sequence[str], known: Sequence[str], classes: Sequence[str]) -> list[int]:
    """Return the positions of images of these classes (names or numbers), or all positions."""
    wanted = set()
    for given in classes:
        if given not in known and not (given.isdecimal() and int(given) < len(known)):
            listed = ", ".join(known) or "none, since there are no class folders"
            raise ConfigError(f"expected classes out of {listed}, got {given!r}: correct --classes")
        wanted.add(given if given in known else known[int(given)])
    return [i for i, name in enumerate(names) if not classes or name in wanted]


def _decode(file: Path, run: SavedRun) -> np.ndarray:
    """Return an image file's central square as (C, H, W) uint8, scaled as the run's own images."""
    channels, _, size = run.image_shape
    with opened_image(file) as image:
        plain = ImageOps.exif_transpose(image).convert("L" if channels == 1 else "RGB")
        side = size if run.config.data.name == "folder" else min(plain.size)
        square = ImageOps.fit(plain, (side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(square).reshape(side, side, channels).transpose(2, 0, 1)
    return resized(pixels[None], size)[0]


def _mixture(names: Sequence[str], class_names: Sequence[str]) -> np.ndarray | None:
    """Return the share of each class (K,), or None if the names are not all classes."""
    if not set(names) <= set(class_names):
        return None
    return np.array([names.count(name) for name in class_names]) / len(names)
