"""The state of this machine: versions, devices, memory, data sets, extractors' weights, store.

Each missing part comes with the way to get it. Nothing is started and nothing is downloaded.
"""

import os
from pathlib import Path
from typing import Any

import psutil
import torch
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

from pipeline.cluster.actor_plan import allotted_cpus
from pipeline.config.plugins import ALL_PLUGINS
from pipeline.config.tracking import TrackingConfig, tracking_uri, ui_command
from pipeline.data.catalog import SPECS
from pipeline.data.datasets import describe, load_stored, store_root
from pipeline.files.paths import mask
from pipeline.tracking.mlflow_session import versions
from pipeline.tracking.tracker import check_store
from spire_core.errors import DataError, SpireError
from spire_core.evaluation.extractors import CLASSIFIER_SUFFIX, INCEPTION, make_extractor
from spire_core.evaluation.selftest import metric_selftest
from spire_core.training.fit import to_float

SELFTEST_IMAGES = 4000  # of a test split: enough for KID's subsets of 1000, and seconds on one core


def examine(with_metrics: bool) -> dict[str, Any]:
    """Return the state of this machine; `ok` is False if a self-test of the metrics failed."""
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    data, config = [describe(name) for name in SPECS], TrackingConfig()
    tests = [_selftest(entry["name"]) for entry in data if with_metrics and entry["present"]]
    weights = Path(torch.hub.get_dir(), "checkpoints", Path(URL_INCEPTION_V3).name)
    problem = f"it is downloaded when it is first used, or put {URL_INCEPTION_V3} into "
    problem += f"{weights.parent}, or pass eval.extractor_weights=PATH"
    inception = {"name": INCEPTION, "problem": None if weights.is_file() else problem}
    uri = mask(tracking_uri(config))
    store: dict[str, Any] = {"uri": uri, "ui": ui_command(config), "problem": None}
    try:
        if uri.startswith(("http://", "https://")):
            check_store(config)
    except SpireError as error:
        store["problem"] = str(error)
    parts = [part for part in (*data, inception, store) if part["problem"]]
    return {
        "packages": versions(),
        "num_cpus": allotted_cpus() or os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "memory_free_bytes": psutil.virtual_memory().available,
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in gpus],
        "ray_address": os.environ.get("RAY_ADDRESS"),
        "data": data,
        "extractors": [inception | {"ok": weights.is_file()}],
        "plugins": [{"kind": one.kind, "names": one.names()} for one in ALL_PLUGINS],
        "tracking": store | {"ok": store["problem"] is None},
        "selftests": tests,
        "missing": [f"{part.get('name', uri)}: {part['problem']}" for part in parts],
        "ok": all(test["ok"] for test in tests),
    }


def _selftest(name: str) -> dict[str, Any]:
    """Return whether KID with the data set's own extractor separates real and wrong images."""
    try:
        stored = load_stored(name, store_root(), "test")
    except DataError as error:
        return {"name": name, "ok": False, "problem": str(error)}
    images = to_float(torch.from_numpy(stored.images[:SELFTEST_IMAGES].copy()))
    labels = torch.from_numpy(stored.labels[:SELFTEST_IMAGES].copy())
    scores = metric_selftest(make_extractor(name + CLASSIFIER_SUFFIX), images, labels)
    return {"name": name, "problem": None, **scores}
