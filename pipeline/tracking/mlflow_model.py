"""A saved run as a model in MLflow, without what is not for a store."""

import contextlib
import re
import tempfile
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.config.load import config_from_dict
from pipeline.config.plugins import plugins_of
from pipeline.files.atomic import read_object
from pipeline.runs.layout import CLIENT_FILE
from pipeline.tracking.relay import Refusal
from spire_core.errors import ConfigError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run
    from mlflow.models import ModelSignature

MODEL_TAG = "spire.logged_ms"  # identifies a model when its entry is sent again

PACKAGE = Path(__file__).resolve().parents[1]
CORE = PACKAGE.parent / "spire_core"

MODEL_NEEDS = ("mlflow", "numpy", "omegaconf", "safetensors", "torch")
ROOMS = ("__init__.py", "config", "files", "inference", "runs")  # of `pipeline`, to draw
NO_ROOMS = ("__pycache__", "weights")  # of `spire_core`: the classifiers' weights score images


def log_model(
    client: "MlflowClient",
    run_id: str,
    folder: Path,
    image_shape: tuple[int, ...],
    guidance: float,
    name: str,
) -> None:
    """Record a saved run as a model of run `run_id`; see `Tracker.log_model`.

    A second call with the same `name` completes a model that the first has left unfinished.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    run, config = client.get_run(run_id), read_object(folder / "config.json")["config"]
    model = _model_of(client, run, name)
    about = Model(
        artifact_path=model.artifact_location,
        run_id=run_id,
        model_uuid=model.model_id,
        model_id=model.model_id,
    )
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        # MLflow warns of one of its own type hints, and that there is no input example.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"mlflow\.")
        import mlflow.pyfunc  # its log_model needs a process-wide run and URI

        saved = Path(scratch, "model")
        try:
            mlflow.pyfunc.save_model(
                path=str(saved),
                python_model=str(PACKAGE / "inference" / "mlflow_generator.py"),
                artifacts={"run": str(folder)},
                code_paths=_linked_code(Path(scratch, "code")),
                pip_requirements=needs_of(config),
                signature=_signature(image_shape, guidance),
                mlflow_model=about,
            )
            keep_published(saved / "artifacts" / folder.name, config)
        except OSError:
            raise
        except Exception as error:  # only local files are involved, so that it is final
            client.finalize_logged_model(model.model_id, "FAILED")
            raise Refusal(f"the model cannot be saved: {error}") from error
        client.log_model_artifacts(model.model_id, str(saved))
    client.finalize_logged_model(model.model_id, "READY")
    known = run.outputs.model_outputs if run.outputs else ()
    if model.model_id not in [one.model_id for one in known]:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])


def keep_published(saved: Path, config: Mapping[str, Any]) -> None:
    """Drop from a copy of a finished run all clients but those whose own parts are for the store.

    Not for it are clients that have arrived since, as what an entry waits for can take days. With
    private rounds nor are those of pre-training: their parts have no noise, and their ids tell who
    took part. Files that a killed process has left unfinished are dropped as well.
    """
    num_clients = config["federation"]["num_clients"]
    last = num_clients + config["federation"]["num_new_clients"]
    first = 0 if config["privacy"]["rounds"]["epsilon"] is None else num_clients
    for path in saved.glob("clients/*"):
        client = CLIENT_FILE.fullmatch(path.name)
        if client is None or not first <= int(client[1]) < last:
            path.unlink()
    for path in saved.rglob("*.part"):
        path.unlink()


def _model_of(client: "MlflowClient", run: "Run", name: str) -> "LoggedModel":
    """Return the run's model of this name, created unless it is there.

    MLflow repeats a request whose answer is lost, and may have created a second one.
    """
    run_id, experiment = run.info.run_id, run.info.experiment_id
    known = f"source_run_id = '{run_id}' AND tags.`{MODEL_TAG}` = '{name}'"
    if not client.search_logged_models([experiment], known):
        model_name = re.sub(r"[/:.%\"']+", "-", run.info.run_name or run_id)  # what MLflow allows
        client.create_logged_model(experiment, model_name, run_id, {MODEL_TAG: name})
    model, *doubles = client.search_logged_models([experiment], known)
    for double in doubles:
        client.delete_logged_model(double.model_id)
    return model


def needs_of(config: Mapping[str, Any]) -> list[str]:
    """Return the packages, as installed here, with which a saved run loads and draws."""
    names = [*MODEL_NEEDS, *(["diffusers"] if config["model"]["backbone"] else [])]
    names += ["wordllama"] if config["model"]["text"] == "sentences" else []
    with contextlib.suppress(ConfigError):  # as for packages below, where one is not installed
        names += [one.package for one in plugins_of(config_from_dict(config)) if one.package]
    needs = []
    for name in dict.fromkeys(names):
        with contextlib.suppress(metadata.PackageNotFoundError):  # where a run is synced elsewhere
            needs.append(f"{name}=={metadata.version(name).split('+')[0]}")
    return needs


def _linked_code(folder: Path) -> list[str]:
    """Return folders of links to the code that draws; MLflow copies what the links lead to."""
    core = [path.name for path in CORE.iterdir() if path.name not in NO_ROOMS]
    for package, names in ((PACKAGE, ROOMS), (CORE, core)):
        (folder / package.name).mkdir(parents=True)
        for name in names:
            (folder / package.name / name).symlink_to(package / name)
    return [str(path) for path in sorted(folder.iterdir())]


def _signature(image_shape: tuple[int, ...], guidance: float) -> "ModelSignature":
    """Return the types of what the model reads and draws."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

    params = [ParamSpec("seed", "long", 0), ParamSpec("num_images", "long", 1)]
    params += [ParamSpec("guidance", "double", float(guidance))]
    return ModelSignature(
        inputs=Schema([ColSpec("long", "client_id")]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, *image_shape))]),
        params=ParamSchema(params),
    )
