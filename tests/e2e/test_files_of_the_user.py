"""Files in the user's folder that have the names of this project's packages."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NOT_INHERITED = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "SPIRE_ROOT")
COMMAND = "import sys; from sweeps.cli import main; sys.exit(main())"  # as the script `spire`
SMALL = ("federation.num_rounds=1", "adapt.epochs=1", "eval.num_images=8", "eval.num_clients=2")
SMALL += ("eval.num_loss_images=8", "diffusion.sample_steps=2", "tracking.log_model=false")
SMALL += ("resources.num_actors=1",)


def test_a_run_neither_imports_nor_runs_them(
    tmp_path: Path, mnist_root: Path, new_database: Path
) -> None:
    shutil.copy(new_database, tmp_path)
    for name in ("pipeline", "sweeps", "spire_core", "torch"):
        mark = f"open({str(tmp_path / 'was_run')!r}, 'w').close()\n"
        (tmp_path / f"{name}.py").write_text(mark)
    env = {k: v for k, v in os.environ.items() if k not in NOT_INHERITED}
    done = subprocess.run(
        [sys.executable, "-P", "-c", COMMAND, "run", "smoke", "--quiet", *SMALL],
        cwd=tmp_path,
        env=env | {"SPIRE_DATA": str(mnist_root), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "was_run").exists()
