"""A command that is typed in the test's own process, which is quicker than one of its own."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ray_desk import NOT_INHERITED
from pipeline.cli.main import main


def answer(folder: Path, data: Path, *words: str) -> dict[str, Any]:
    """Type `spire` with these words in a folder; return the object that it prints."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder):
        for name in NOT_INHERITED:
            patch.delenv(name, raising=False)
        patch.setenv("SPIRE_DATA", str(data))
        with contextlib.redirect_stdout(out):
            assert main([*words, "--json"]) == 0
    return json.loads(out.getvalue())
