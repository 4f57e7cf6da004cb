"""Files and a description for a run that has ended, such as the report of a sweep."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.tracking import TrackingConfig
from pipeline.files.paths import mask
from pipeline.tracking.mlflow_queries import readable_uri
from pipeline.tracking.mlflow_session import first_contact
from pipeline.tracking.mlflow_settings import time_for
from spire_core.errors import ClusterError

if TYPE_CHECKING:
    from mlflow import MlflowClient

NOTE = "mlflow.note.content"  # MLflow's tag of a description
NOTE_CHARS = 5000  # that every version of MLflow takes


def attach(
    config: TrackingConfig, run_id: str, folder: Path, files: Iterable[Path], note: str
) -> None:
    """Record these files of a folder as the run's artifacts below `report/`, and describe the run.

    The description replaces one that begins with the same line, and none that somebody wrote.
    Raises ClusterError, which names the folder, if the store does not take them.
    """
    from mlflow.exceptions import MlflowException

    uri = readable_uri(config)
    try:
        with first_contact(uri) as client:
            for file in files:
                place = Path("report", file.relative_to(folder).parent)
                with time_for(file):
                    client.log_artifact(run_id, str(file), place.as_posix())
            _describe(client, run_id, note)
    except (ClusterError, MlflowException, OSError) as error:
        raise ClusterError(
            f"expected to attach the report to run {run_id}, got {mask(str(error))!r}: the report "
            f"itself is complete, in {folder}"
        ) from error


def _describe(client: "MlflowClient", run_id: str, note: str) -> None:
    written = client.get_run(run_id).data.tags.get(NOTE, "")
    if not written or written.splitlines()[0] == note.splitlines()[0]:
        client.set_tag(run_id, NOTE, shortened(note))


def shortened(note: str) -> str:
    """Return as many whole lines of a description as MLflow takes."""
    return note if len(note) <= NOTE_CHARS else note[:NOTE_CHARS].rpartition("\n")[0]
