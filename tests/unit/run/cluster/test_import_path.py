"""The folders that Ray's workers import from."""

import site
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cluster.import_path import ROOT, SafePathJob

PACKAGES = ("pipeline", "sweeps", "spire_core")


def paths_of(job: SafePathJob) -> list[str]:
    job._get_serialized_runtime_env()
    job._py_driver_sys_path.extend(["/users/scripts", "/users/folder"])  # as ray.init does
    return list(job._get_proto_job_config().py_driver_sys_path)


def test_workers_import_from_the_checkout_and_not_from_the_current_folder() -> None:
    assert paths_of(SafePathJob()) == [str(ROOT)]
    assert all((ROOT / name / "__init__.py").is_file() for name in PACKAGES)


def test_workers_find_installed_packages_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(ROOT)])
    assert paths_of(SafePathJob()) == []


def test_an_uploaded_folder_stays_as_ray_has_it() -> None:
    job = SafePathJob(runtime_env={"working_dir": "gcs://upload.zip"})
    assert list(job._get_proto_job_config().py_driver_sys_path) == []


@pytest.mark.parametrize("package", ["pipeline", "sweeps"])
def test_modules_run_beside_files_of_the_same_names(tmp_path: Path, package: str) -> None:
    """Python itself imports the file that is named like the module of `-m`; others are not."""
    for name in {*PACKAGES, "torch"} - {package}:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the file of a user was run')")
    words = {"pipeline": ["run", "smoke", "rounds=1"], "sweeps": ["--help"]}[package]
    done = subprocess.run(
        [sys.executable, "-m", package, *words],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "SPIRE_DATA": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "the file of a user was run" not in done.stderr
    assert ("Usage" in done.stdout) if package == "sweeps" else ("got rounds" in done.stderr)
