"""The state of this machine: versions, devices, memory, data sets, extractors' weights, store.

Each missing part comes with the way to get it. Nothing is started and nothing is downloaded.
"""

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import requests
import torch

from pipeline.cluster.actor_plan import allotted_cpus
from pipeline.config.plugins import ALL_PLUGINS
from pipeline.config.tracking import TrackingConfig, tracking_uri, ui_command
from pipeline.data.catalog import SPECS
from pipeline.data.datasets import describe, load_stored, store_root
from pipeline.files.paths import error_line, mask
from spire_core.errors import DataError, WeightsError
from spire_core.evaluation.extractors import (
    CLASSIFIER_SUFFIX,
    EXTRACTORS,
    INCEPTION,
    make_extractor,
)
from spire_core.evaluation.selftest import metric_selftest
from spire_core.training.fit import to_float

PACKAGES = ("torch", "torchvision", "ray", "mlflow", "torch-fidelity", "numpy")
# The pages that messages name as docs/PAGE.md: the checkout's, or copies with the package.
PAGES = (Path(__file__).parents[2] / "docs", Path(sys.prefix, "share/doc/spire-diffusion"))
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = (
    f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
)
SELFTEST_IMAGES = 4000  # of a test split: enough for KID's subsets of 1000, and seconds on one core


def examine(with_metrics: bool = False) -> dict[str, Any]:
    """Return the state of this machine as plain values; `with_metrics` tests the metrics as well.

    `missing` has a sentence for each missing part; `ok` is False if a self-test failed.
    """
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    data = [describe(name) for name in SPECS]
    tests = [_selftest(entry["name"]) for entry in data if with_metrics and entry["present"]]
    extractors, store = [*map(_extractor, EXTRACTORS)], _store()
    packages = {name: _version(name) for name in PACKAGES}
    missing = [f"{k}: run `pip install {k}`" for k, version in packages.items() if version is None]
    parts = [part for part in (*data, *extractors, store) if not part["ok"]]
    missing += [f"{part.get('name', store['uri'])}: {part['problem']}" for part in parts]
    return {
        "python": platform.python_version(),
        "packages": packages,
        "num_cpus": allotted_cpus() or os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "memory_free_bytes": psutil.virtual_memory().available,
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in gpus],
        "ray_address": os.environ.get("RAY_ADDRESS"),
        "data": data,
        "extractors": extractors,
        "plugins": [{"kind": one.kind, "names": one.names()} for one in ALL_PLUGINS],
        "tracking": store,
        "pages": next((str(one) for one in PAGES if (one / "index.md").is_file()), None),
        "selftests": tests,
        "missing": missing,
        "ok": all(test["ok"] for test in tests),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _extractor(name: str) -> dict[str, Any]:
    """Return whether an extractor's weights are here; Inception's are not loaded."""
    problem, path = None, Path(torch.hub.get_dir(), "checkpoints", INCEPTION_FILE)
    if name != INCEPTION:
        try:
            make_extractor(name)
        except WeightsError as error:
            problem = str(error)
    elif not path.is_file():
        problem = (
            f"it is downloaded when it is first used; without a network, put {INCEPTION_URL} into "
            f"{path.parent} or pass eval.extractor_weights=PATH"
        )
    return {"name": name, "ok": problem is None, "problem": problem}


def _store() -> dict[str, Any]:
    """Return the address of the tracking store, and whether a server answers there."""
    config, problem = TrackingConfig(), None
    uri = tracking_uri(config)
    if uri.startswith(("http://", "https://")):
        try:
            requests.get(f"{uri.rstrip('/')}/health", timeout=5).raise_for_status()
        except (requests.RequestException, ValueError) as error:
            problem = f"no answer ({error_line(error)}): start it, or unset MLFLOW_TRACKING_URI"
    places = {"uri": mask(uri), "ui": ui_command(config)}
    return {**places, "ok": problem is None, "problem": problem}


def _selftest(name: str) -> dict[str, Any]:
    """Return whether KID with the data set's own extractor separates real and wrong images."""
    try:
        stored = load_stored(name, store_root(), "test")
        images = torch.from_numpy(stored.images[:SELFTEST_IMAGES].copy())
        labels = torch.from_numpy(stored.labels[:SELFTEST_IMAGES].copy())
        scores = metric_selftest(make_extractor(name + CLASSIFIER_SUFFIX), to_float(images), labels)
    except (DataError, WeightsError) as error:
        return {"name": name, "ok": False, "problem": str(error)}
    wrong = [key for key, value in scores.items() if value is False and key != "ok"]
    problem = f"not as expected: {', '.join(wrong)}" if wrong else None
    return {"name": name, **scores, "problem": problem}
