"""The folders from which Ray's worker processes import Python modules."""

import site
from pathlib import Path
from typing import Any

from ray.job_config import JobConfig

ROOT = Path(__file__).resolve().parents[2]  # holds the packages spire_core, pipeline and sweeps


class SafePathJob(JobConfig):
    """A Ray job whose workers never import from the user's current folder.

    Ray puts the current folder and that of the script first on the path of each worker, so that a
    user's own `pipeline.py` there would be run and taken for the package. An uploaded working
    folder (`ray job submit --working-dir`) keeps its place.
    """

    def _get_proto_job_config(self) -> Any:
        if not self._runtime_env_has_working_dir():
            self._py_driver_sys_path = import_folders()
        return super()._get_proto_job_config()


def import_folders() -> list[str]:
    """Return the folder of a checkout; none if Python finds the installed packages by itself."""
    installed = {*site.getsitepackages(), site.getusersitepackages()}
    return [] if ROOT in {Path(folder).resolve() for folder in installed} else [str(ROOT)]
