"""A run's copy on S3, here a server on this machine: `pip install 'moto[s3]'`."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli.main import main

moto_server = pytest.importorskip("moto.server", reason="no S3 here: pip install 'moto[s3]'")

SETTINGS = ["resources.pool=local", "tracking.enabled=false", "federation.num_rounds=6"]
SETTINGS += ["eval.every=0", "eval.num_images=16", "adapt.epochs=1", "tracking.checkpoint_every=2"]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What stands after the folder in the URI of a bucket named `runs`."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    query = f"?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    from pyarrow.fs import FileSystem

    storage, _ = FileSystem.from_uri(f"s3://runs{query}&allow_bucket_creation=true")
    storage.create_dir("runs")
    yield query
    server.stop()


def test_a_run_comes_back_from_s3_with_the_same_result(
    bucket: str,
    mnist_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SPIRE_DATA", str(mnist_root))
    storage = f"tracking.storage=s3://runs/some/folder{bucket}"
    words = ["run", "smoke", *SETTINGS, f"tracking.root={tmp_path}/gone", storage]
    assert main([*words, "--json", "--quiet"]) == 0
    told = json.loads(capsys.readouterr().out)
    shutil.rmtree(tmp_path / "gone")
    uri = f"s3://runs/some/folder/{told['run_id']}{bucket}"
    assert main(["resume", uri, f"tracking.root={tmp_path}/new", "--json", "--quiet"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["state_fingerprint"] == told["state_fingerprint"]
    assert main(["resume", f"s3://runs/nobody{bucket}"]) == 2
    assert "expected a run at s3://runs/nobody" in capsys.readouterr().err
