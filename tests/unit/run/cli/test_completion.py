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
        ("spire data fe", {"fetch"}, {"show"}),
    ],
)
def test_a_tab_offers_what_can_follow(
    tmp_path: Path, line: str, some: set[str], none: set[str]
) -> None:
    run = tmp_path / "runs" / "0123"
    run.mkdir(parents=True)
    record = {"run_id": "0123", "run_name": "the-one", "started_ms": 1, "kind": "run"}
    (run / "run.json").write_text(json.dumps(record | {"tracked": False, "uri": ""}))
    offered = tmp_path / "offered"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    asked |= {"_ARGCOMPLETE_STDOUT_FILENAME": str(offered), "_ARGCOMPLETE_IFS": "\n"}
    spire = [sys.executable, "-c", "from sweeps.cli import main; main()"]
    subprocess.run(spire, env={**os.environ, **asked, "SPIRE_ROOT": str(tmp_path)}, check=True)
    words = {word.strip() for word in offered.read_text().split("\n")}
    assert some <= words
    assert not none & words
