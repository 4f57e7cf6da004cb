"""What a tab offers after a part of a command, as bash asks for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("line", "some", "none"),
    [
        ("spire run mnist", {"mnist", "mnist-cpu"}, {"smoke"}),
        ("spire sweep compare adapt.ep", {"adapt.epochs="}, {"compare"}),
        ("spire sample ", {"last", "the-one", "0123"}, {"mnist"}),
    ],
)
def test_a_tab_offers_what_can_follow(
    tmp_path: Path, line: str, some: set[str], none: set[str]
) -> None:
    run = tmp_path / "runs" / "0123"
    run.mkdir(parents=True)
    record = {"run_id": "0123", "run_name": "the-one", "started_ms": 1, "kind": "run"}
    (run / "run.json").write_text(json.dumps(record | {"tracked": False, "uri": ""}))
    words = line.split(" ")
    asked = {
        "_SPIRE_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": f"{len(words) - 1}",
    }
    code = "from sweeps.cli import main; main()"
    env = {**os.environ, **asked, "SPIRE_ROOT": str(tmp_path)}
    told = subprocess.run([sys.executable, "-c", code], env=env, stdout=-1, text=True, check=True)
    offered = {word.partition(",")[2] for word in told.stdout.split()}
    assert some <= offered
    assert not none & offered
