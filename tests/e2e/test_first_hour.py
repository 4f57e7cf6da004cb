"""The commands of docs/first-hour.md, in their order, as someone new types them."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

PAGE = Path(__file__).parents[2] / "docs" / "first-hour.md"
NOT_RUN = "not run by the tests"


def commands() -> list[str]:
    blocks = re.findall(r"```\n(.*?)```", PAGE.read_text(), re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.strip()]
    assert any(NOT_RUN in line for line in lines)
    return [line.partition("#")[0].strip() for line in lines if NOT_RUN not in line]


def test_each_command_of_the_first_hour_works(tmp_path: Path, mnist_root: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 16, 16, 3), np.uint8)
    for i, image in enumerate(pixels):
        folder = tmp_path / "photos" / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_", "SPIRE_"))}
    env |= {"SPIRE_DATA": str(mnist_root)}
    typed = commands()
    assert len(typed) >= 5
    for line in typed:
        program, *words = shlex.split(line)
        assert program == "spire"
        command = [str(Path(sys.executable).with_name(program)), *words]
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert list(tmp_path.glob("runs/*/samples/client_0_seed0.png"))
