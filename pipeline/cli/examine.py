"""The state of this machine: versions, devices, memory, data sets, extractor weights, store.

Each missing part comes with the way to get it. Nothing is started and nothing is downloaded.
"""

import base64
import os
import platform
import sys
import urllib.request
from http.client import HTTPException
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import psutil
import torch

from pipeline.cluster.actor_plan import allotted_cpus
from pipeline.config.plugins import ALL_PLUGINS
from pipeline.config.tracking import TrackingConfig, tracking_uri, ui_command
from pipeline.data.catalog import SPECS
from pipeline.data.datasets import describe, load_stored, store_root
from pipeline.files.masking import mask
from spire_core.errors import ConfigError, DataError, WeightsError
from spire_core.evaluation.extractors import (
    CLASSIFIER_SUFFIX,
    EXTRACTORS,
    INCEPTION,
    make_extractor,
)
from spire_core.evaluation.selftest import metric_selftest
from spire_core.plugins import Plugins
from spire_core.training.fit import to_float

PACKAGES = ("torch", "torchvision", "ray", "mlflow", "torch-fidelity", "numpy")
CHECKOUT = Path(__file__).parents[2]
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = (
    f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"
)
SELFTEST_IMAGES = 4000  # of a test split: enough for KID's subsets of 1000, and seconds on one core


def examine(with_metrics: bool = False) -> dict[str, Any]:
    """Return the state of this machine as plain values; `with_metrics` tests the metrics as well.

    `missing` has a sentence for each missing part; `ok` is False if a self-test failed.
    """
    state: dict[str, Any] = {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "num_cpus": allotted_cpus() or os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "memory_free_bytes": psutil.virtual_memory().available,
        "gpus": _gpus(),
        "ray_address": os.environ.get("RAY_ADDRESS"),
        "data": [describe(name) for name in SPECS],
        "extractors": [_extractor(name) for name in EXTRACTORS],
        "plugins": [_plugins(plugins) for plugins in ALL_PLUGINS],
        "tracking": _tracking(),
        "pages": pages_folder(),
    }
    state["selftests"] = _selftests(state["data"]) if with_metrics else []
    state["missing"] = _missing(state)
    state["ok"] = all(test["ok"] for test in state["selftests"])
    return state


def pages_folder() -> str | None:
    """Return the folder of the pages that messages name as docs/PAGE.md; None if there is none.

    They are those of the checkout, or the copies that were installed with the package.
    """
    folders = (CHECKOUT / "docs", Path(sys.prefix) / "share" / "doc" / "spire-diffusion")
    return next((str(one) for one in folders if (one / "index.md").is_file()), None)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> list[dict[str, Any]]:
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [{"name": d.name, "memory_bytes": d.total_memory} for d in devices]


def _extractor(name: str) -> dict[str, Any]:
    """Return whether an extractor's weights are here; Inception's are not loaded."""
    if name == INCEPTION:
        path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
        how = (
            f"it is downloaded when it is first used; without a network, put {INCEPTION_URL} into "
            f"{path.parent} or pass eval.extractor_weights=PATH"
        )
        return {"name": name, "ok": path.is_file(), "problem": None if path.is_file() else how}
    try:
        make_extractor(name)
    except WeightsError as error:
        return {"name": name, "ok": False, "problem": str(error)}
    return {"name": name, "ok": True, "problem": None}


def _plugins(plugins: Plugins) -> dict[str, Any]:
    """Return the names of one kind that other packages bring, and what is wrong with them."""
    return {"kind": plugins.kind, "names": plugins.names()}


def _tracking() -> dict[str, Any]:
    config = TrackingConfig()
    try:
        uri = tracking_uri(config)
    except ConfigError as error:
        given = mask(os.environ.get("MLFLOW_TRACKING_URI", ""))
        return {"uri": given, "ui": "no UI", "ok": False, "problem": mask(str(error))}
    state = {"uri": mask(uri), "ui": ui_command(config), "ok": True, "problem": None}
    if uri.startswith(("http://", "https://")):
        try:
            urllib.request.urlopen(_health_of(uri), timeout=5).close()
        except (OSError, ValueError, HTTPException) as error:
            problem = (
                f"no answer ({mask(str(error))}): start the server, or unset MLFLOW_TRACKING_URI"
            )
            state |= {"ok": False, "problem": problem}
    return state


def _health_of(uri: str) -> urllib.request.Request:
    """Return the question whether a server is there; urllib reads no user out of an address."""
    parts = urlsplit(uri)
    user, _, host = parts.netloc.rpartition("@")
    request = urllib.request.Request(parts._replace(netloc=host).geturl().rstrip("/") + "/health")
    if user:
        secret = base64.b64encode(unquote(user).encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {secret}")
    return request


def _selftests(data: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [_selftest(entry["name"]) for entry in data if entry["present"]]


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


def _missing(state: dict[str, Any]) -> list[str]:
    """Return a sentence for each missing part."""
    packages = [name for name, version in state["packages"].items() if version is None]
    sentences = [f"{name}: run `pip install {name}`" for name in packages]
    for entry in (*state["data"], *state["extractors"]):
        if not entry["ok"]:
            sentences.append(f"{entry['name']}: {entry['problem']}")
    if not state["tracking"]["ok"]:
        sentences.append(f"{state['tracking']['uri']}: {state['tracking']['problem']}")
    return sentences


def doctor_text(state: dict[str, Any]) -> str:
    """Return the state of `examine` as text."""
    versions = ", ".join(f"{k} {v or 'missing'}" for k, v in state["packages"].items())
    gpus = ", ".join(f"{g['name']} ({_gib(g['memory_bytes'])})" for g in state["gpus"])
    memory = f"{_gib(state['memory_bytes'])}, {_gib(state['memory_free_bytes'])} of it free"
    device = "GPUs" if state["gpus"] else "CPUs"
    lines = [
        f"python      {state['python']}, {versions}",
        f"machine     {state['num_cpus']} CPUs, {memory}, GPUs: {gpus or 'none'}",
        f"clients     on {device}, in Ray actors on {state['ray_address'] or 'this machine'}",
        f"data        {_states(state['data'])}",
        f"extractors  {_states(state['extractors'])}",
        *_plugin_lines(state["plugins"]),
        f"tracking    {state['tracking']['uri']}",
        f"            {state['tracking']['ui']}",
    ]
    if state["pages"]:
        lines.append(f"pages       {state['pages']}")
    lines += [_selftest_line(test) for test in state["selftests"]]
    lines += ["", "missing:" if state["missing"] else "nothing is missing"]
    return "\n".join(lines + [f"- {sentence}" for sentence in state["missing"]])


def _plugin_lines(plugins: list[dict[str, Any]]) -> list[str]:
    """Return a line with all that other packages bring, none without any."""
    found = [f"{one['kind']} {name}" for one in plugins for name in one["names"]]
    return [f"plug-ins    {', '.join(found)}"] if found else []


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB"


def _states(entries: list[dict[str, Any]]) -> str:
    return ", ".join(f"{e['name']} {_state(e)}" for e in entries)


def _state(entry: dict[str, Any]) -> str:
    if entry["ok"]:
        return "ok"
    return "damaged" if entry.get("present") else "missing"


def _selftest_line(test: dict[str, Any]) -> str:
    verdict = "ok" if test["ok"] else "FAILED"
    if "floor" not in test:
        return f"self-test   {test['name']}: {verdict}, {test['problem']}"
    scores = ", ".join(
        f"{text} {test[key]:.3g}"
        for key, text in (
            ("floor", "floor"),
            ("real_kid", "real"),
            ("wrong_class_kid", "wrong class"),
            ("noise_kid", "noise"),
        )
    )
    accuracy = "" if test["accuracy"] is None else f", accuracy {test['accuracy']:.3f}"
    problem = f", {test['problem']}" if test["problem"] else ""
    return f"self-test   {test['name']}: {verdict}, KID {scores}{accuracy}{problem}"
