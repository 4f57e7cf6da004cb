"""A real tracking server: what lies there in the end, and what does not."""

import base64
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from pipeline.cli.main import main
from pipeline.config.tracking import TrackingConfig, ui_command
from pipeline.runs import noise_key
from pipeline.runs.record import load_start, read_record
from pipeline.tracking.tracker import Tracker


@pytest.fixture
def address(server: Any) -> str:
    """The address of a real tracking server."""
    return server.address


PRIVATE = ["privacy.rounds.epsilon=8", "client.opt_state=reset", "client.engine=loop"]
PRIVATE += ["federation.num_rounds=3", "federation.cohort_size=6", "tracking.checkpoint_every=1"]
PRIVATE += ["resources.pool=local", "eval.every=1", "eval.num_images=8", "eval.num_loss_images=8"]
PRIVATE += ["adapt.epochs=1", "diffusion.sample_steps=2"]
KEY = bytes(range(100, 132))


def test_of_private_rounds_neither_store_nor_storage_has_the_key_or_a_clients_number(
    server: Any, mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise_key, "new_key", lambda: KEY)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    words = [f"tracking.root={tmp_path}/root", f"tracking.storage=file://{tmp_path}/storage"]
    words += [f"data.root={mnist_root}", *PRIVATE]
    assert main(["run", "smoke", "--quiet", *words]) == 0
    [run_dir] = (path.parent for path in tmp_path.glob("root/runs/*/run.json"))
    federation = load_start(run_dir)[0].federation

    client, storage = MlflowClient(server.address), tmp_path / "storage"
    run = client.get_run(read_record(run_dir)["run_id"])
    assert not [key for key in run.data.metrics if key.startswith(("system/", "memory/"))]
    assert "pretrain/loss" not in run.data.metrics

    assert not [*storage.rglob("*")]
    forms = (KEY, KEY.hex().encode(), base64.b64encode(KEY), repr(KEY).encode())
    for path in server.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(form in content for form in forms), path
    [output] = run.outputs.model_outputs
    place = Path(client.get_logged_model(output.model_id).artifact_location.partition(":")[2])
    saved = (server.folder / "artifacts").rglob(
        f"{place.parent.name}/artifacts/artifacts/*/clients/*"
    )
    own = {path.name for path in saved}
    ids = range(federation.num_clients, federation.num_clients + federation.num_new_clients)
    assert own == {f"client_{client_id}.safetensors" for client_id in ids}


LOAD = """
import sys
from pathlib import Path
sys.meta_path = [f for f in sys.meta_path if "editable" not in str(f).lower()]
sys.path = [p for p in sys.path if not Path(p, "spire_core").is_dir()]
try:
    import spire_core
except ModuleNotFoundError:
    pass
else:
    sys.exit("the project is installed here, so this shows nothing")
import mlflow.pyfunc, numpy, pandas
model = mlflow.pyfunc.load_model(sys.argv[1], dst_path=sys.argv[3])
images = model.predict(pandas.DataFrame({"client_id": [0]}), params={"num_images": 2})
numpy.save(sys.argv[2], images)
"""


def test_the_environment_names_a_server_that_gets_everything_also_a_model_that_loads_elsewhere(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The project is not installed there."""
    import torch

    from pipeline.config.load import load_config
    from pipeline.inference.saved_run import SavedRun
    from pipeline.runs.model_files import save_client, save_run
    from spire_core.network.flat_model import FlatModel

    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    small = ["model.d_emb=4", "model.width=8", "model.multipliers=[1]", "model.attention=[]"]
    settings = load_config(None, [*small, "model.cond_dim=8", "diffusion.sample_steps=2"])
    model = FlatModel(settings.model, settings.method, 1)
    weights = torch.randn(model.layout.size, generator=torch.Generator().manual_seed(0)) / 10
    more = {"image_shape": [1, 8, 8], "class_names": ["a", "b"]}
    config = TrackingConfig(root=str(tmp_path / "root"))
    with Tracker.start(config, "remote", {"method": "spire"}) as tracker:
        tracker.log_metrics({"a/b": 0.5, "inf": math.inf}, 3)
        tracker.log_image("samples/all", np.zeros((4, 5, 3), np.uint8), 3)
        tracker.log_table("tables/kid.json", pd.DataFrame({"client_id": [0, 1]}))
        folder = tracker.run_dir / "model"
        save_run(folder, settings, model, weights.numpy(), more)
        save_client(folder, 0, {"client_emb": torch.ones(4)})
        tracker.log_model(folder, (1, 8, 8))
    assert tracker.uri == address
    assert ui_command(config) == f"{address}/#/experiments?workflowType=machine_learning"
    assert {p.name for p in (tmp_path / "root").iterdir()} == {"runs"}

    client = MlflowClient(address)
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"a/b": 0.5, "inf": sys.float_info.max}
    table = client.download_artifacts(tracker.run_id, "tables/kid.json", str(tmp_path))
    assert json.loads(Path(table).read_text()) == {"columns": ["client_id"], "data": [[0], [1]]}
    assert len(client.list_artifacts(tracker.run_id, "images")) == 2

    (output,) = run.outputs.model_outputs
    copy = tmp_path / "model"  # else MLflow leaves one behind
    copy.mkdir()
    uri, images = f"models:/{output.model_id}", tmp_path / "images.npy"
    command = [sys.executable, "-c", LOAD, uri, str(images), str(copy)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = SavedRun.load(folder).draw(0, 2)
    np.testing.assert_allclose(np.load(images), expected, atol=1e-5)
