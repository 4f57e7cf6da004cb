"""What a job uploads: code, presets and weights of this checkout, and nothing that runs leave."""

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from ray._private import ray_constants
from ray._private.runtime_env.packaging import create_package

from pipeline.cluster.job_upload import IGNORE_FILE, MAX_UPLOAD_BYTES, Upload, measure_upload

ROOT = Path(__file__).parents[4]
LEFTOVERS = [
    ".venv/lib/torch.so",
    ".git/objects/ab/cd",
    "data/mnist/train_images.npy",
    "mlflow.db",
    "mlflow.db-wal",
    "runs/abc/model/backbone.safetensors",
    "artifacts/1/abc/samples.png",
    "mlruns/0/meta.yaml",
    "reports/compare/table.md",
    "tune/compare/trial/result.json",
    "samples.png",
    "images.npz",
    "docs/curve.png",
    "benchmarks/results/compare.json",
    "tests/unit/core/evaluation/test_kid.py",
    "pipeline/__pycache__/cli.cpython-311.pyc",
    "spire_diffusion.egg-info/PKG-INFO",
]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files of this checkout that git would commit, as a fresh clone has them."""
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others"]
    done = subprocess.run([*listed, "--exclude-standard"], capture_output=True, check=False)
    if done.returncode:  # an unpacked archive is as fresh as it comes
        names = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file()]
    else:
        names = [name for name in done.stdout.decode().split("\0") if name]
    for name in names:
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


def zipped(folder: Path, target: Path) -> dict[str, int]:
    """What Ray really packs: names and sizes of the files."""
    create_package(
        str(folder),
        target,
        include_gitignore=True,
        excludes=ray_constants.get_runtime_env_default_excludes(),
    )
    with zipfile.ZipFile(target) as package:
        return {i.filename: i.file_size for i in package.infolist() if not i.is_dir()}


def test_a_fresh_checkout_is_small_and_whole(checkout: Path) -> None:
    upload = measure_upload(checkout)
    assert upload.num_bytes < 15 * 2**20
    assert upload.fits
    needed = {"pipeline/cli/main.py", "pipeline/config/presets/smoke.yaml", "pyproject.toml"}
    needed |= {"sweeps/__init__.py", "spire_core/weights/mnist.safetensors"}
    assert needed <= upload.num_bytes_of.keys()
    modules = {p.relative_to(ROOT) for p in ROOT.glob("spire_core/*.py")}
    assert {str(m) for m in modules} <= upload.num_bytes_of.keys()


def test_what_runs_leave_in_a_checkout_stays_there(checkout: Path) -> None:
    before = measure_upload(checkout).num_bytes_of
    for name in LEFTOVERS:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(b"x" * 1000)
    (checkout / "mine.yaml").write_text("seed: 1\n")  # a user's own sweep travels
    assert measure_upload(checkout).num_bytes_of == before | {"mine.yaml": 8}


def test_it_is_what_ray_packs(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (checkout / "runs").mkdir()
    (checkout / "runs" / "a").write_text("a")
    package = tmp_path_factory.mktemp("package") / "a.zip"
    upload = measure_upload(checkout)
    assert zipped(checkout, package) == upload.num_bytes_of
    assert upload.num_bytes <= package.stat().st_size < upload.num_bytes * 1.05  # not compressed


def test_too_much_is_told_with_what_weighs_most(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("photos/a", "photos/b", "code.py"):
        (tmp_path / name).write_bytes(b"")
    sizes = {"photos/a": MAX_UPLOAD_BYTES // 2, "photos/b": MAX_UPLOAD_BYTES // 2, "code.py": 0}
    upload = Upload(tmp_path, sizes)
    assert measure_upload(tmp_path).num_bytes_of.keys() == sizes.keys()
    assert not upload.fits
    assert upload.describe().startswith("100.0 MiB in 3 files (photos 100.0, code.py 0.0)")
    assert str(tmp_path / IGNORE_FILE) in upload.describe()
