"""A record behind a server that fails 30 % of the requests arrives whole, and once."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "flaky_delivery.py"


def test_behind_a_flaky_server_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    words = [sys.executable, str(SCRIPT), "--shares", "0.3", "--seeds", "1", "--out", str(out)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads(out.read_text())
    assert found["all_delivered_once"]
    assert [result["waiting"] for result in found["results"]] == [0, 0]
    assert all(sum(result["requests"].values()) > 19 for result in found["results"])
