"""A run that is watched leaves a trace of some rounds, and is the run that it would have been."""

import gzip
import json
from pathlib import Path

import pytest

from pipeline.cli.main import main


def test_a_run_that_is_watched_is_the_same_run(
    mnist_root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [f"data.root={mnist_root}", f"tracking.root={tmp_path}", "tracking.enabled=false"]
    words += ["resources.pool=local", "federation.num_rounds=2", "federation.num_new_clients=0"]
    words += ["eval.every=0", "eval.num_images=8", "eval.num_clients=2", "model.width=8"]
    words += ["eval.num_loss_images=8", "diffusion.sample_steps=2", "adapt.epochs=1"]
    words += ["federation.cohort_size=2", "federation.tau=1"]  # torch is slow with events
    said, heard = [], []
    for option in ([], ["tracking.profile=true"]):
        assert main(["run", "smoke", *words, *option, "--quiet"]) == 0
        printed = capfd.readouterr()
        said.append(printed.out)
        heard.append(printed.err)
    [trace] = tmp_path.glob("runs/*/profile/*.gz")
    run_dir = trace.parent.parent
    results = {path.parent: path for path in tmp_path.glob("runs/*/result.json")}
    watched = json.loads(results.pop(run_dir).read_text())
    [plain] = [json.loads(path.read_text()) for path in results.values()]
    for name in ("state_fingerprint", "config_fingerprint"):
        assert plain[name] == watched[name]
    assert watched["artifacts"]["profile"] == str(trace)
    assert "profile" not in plain["artifacts"]
    assert str(trace) in said[1]
    assert heard[1] == heard[0]

    assert trace.name == "rounds_2-2.pt.trace.json.gz"  # as metrics count them
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    assert {name.partition(",")[0] for name in names if "client" in name} == {"round 2"}
    table = (run_dir / "profile" / "operators.txt").read_text()
    assert table.startswith("rounds_2-2, sorted by self_cpu_time_total")
    assert "aten::" in table
