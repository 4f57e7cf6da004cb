"""Mistakes that people type: one line that names what is wrong, and exit code 2."""

import http.server
import shlex
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sweeps import cli

MISTAKES = {  # what is typed, and what the answer names
    "": "missing command",
    "rum smoke": "'run'",
    "data fetsch mnist": "'fetch'",
    "run mnits-cpu": "did you mean mnist-cpu",
    "run smoke other": "smoke and other",
    "run smoke --fast": "--fast",
    "run smoke --dry-runs": "--dry-run",
    "run smoke --client.lr=0.1": "write a setting as key=value",
    "run smoke client.lr 0.1": "client.lr",
    "run smoke clint.lr=1": "clint",
    "run smoke client.lr=abc": "client.lr",
    "run smoke client.lr=-1": "client.lr",
    "run smoke client.lr=": "client.lr",
    "run smoke federation.cohort_size=50": "federation.cohort_size",
    "run smoke federation.tau=1 federation.local_epochs=1": "federation.tau",
    "run smoke model.d_emb=[16,64]": "model.d_emb",
    "run smoke method=spyre": "spire",
    "run smoke data=mnits": "mnist",
    "run smoke data=CIFAR10": "did you mean cifar10?",
    "run smoke data=folder": "data.path",
    "run smoke data.path=photos": "data.path",
    "run folder-cpu data.path=nowhere": "data.path",
    "run smoke partition.classes_per_client=11": "partition.classes_per_client",
    "run smoke privacy.adapt.epsilon=": "privacy.adapt.epsilon",
    "run smoke privacy.adapt.delta=0.001": "privacy.adapt.epsilon",
    "run smoke method=retrofit": "model.backbone",
    "run smoke resources.num_actors=100000": "resources.num_actors",
    "run smoke tracking.root=~nosuchuser/runs": "tracking.root",
    "data fetch minst": "did you mean mnist",
    "data show smoke partition.min_size=60000": "60000",
    "sweep smokee": "smoke",
    "sweep typo.yaml": "axis",
    "sweep smoke seeds=[]": "seeds",
    "report nobody": "tracking.root",
    "resume nobody": "nobody",
    "resume nobody client.lr=1": "client.lr=1",
    "sample nobody": "nobody",
    "sample last --num 0": "--num",
    "adapt nobody --data mnist": "nobody",
    "adapt last": "--data",
    "theory theorm": "theorem",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_a_mistake_is_one_line_that_names_it(
    typed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    mnist_root: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPIRE_ROOT", str(tmp_path))
    monkeypatch.setenv("SPIRE_DATA", str(mnist_root))
    Path("typo.yaml").write_text("axis: {client.lr: [1, 2]}\n")
    words = shlex.split(typed)
    if words[:1] == ["run"]:
        words.append("--dry-run")  # finds what a run finds, without Ray
    code = cli.main(words)
    said = capsys.readouterr()
    assert code == 2
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert MISTAKES[typed].lower() in said.err.lower()


def test_doctor_says_that_an_address_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for address, fault in (("http://host:port", "port"), ("http://host:9", "no ans")):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert cli.main(["doctor"]) == 0
        said = capsys.readouterr().out
        assert f"- {address}: " in said
        assert fault in said
    assert str(Path(__file__).parents[4] / "docs") in said  # where the pages are


class Healthy(http.server.BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def test_doctor_asks_a_server_for_its_health_and_tells_no_password(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Healthy) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        address = f"http://me:p%40ss@127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert cli.main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "no answer" not in said
    assert "p%40ss" not in said
    assert Healthy.asked == ["/health"]
