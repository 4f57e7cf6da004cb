"""Workers train on the pre-trained model of the run, whose frozen numbers no message holds."""

from pathlib import Path

import pytest
from tiny_backbone import write_backbone

from pipeline.audit.audit import audit_worker
from pipeline.config.load import load_config
from pipeline.experiment.pools import open_pool
from pipeline.federation.setup import FederationSetup, prepare
from spire_core.errors import ConfigError

WORDS = ("method=retrofit", "data.image_size=8", "resources.pool=local", "eval.extractor=none")


@pytest.fixture
def setting(tmp_path: Path, mnist_root: Path) -> FederationSetup:
    backbone = write_backbone(tmp_path / "model")
    words = [*WORDS, f"data.root={mnist_root}", f"model.backbone={backbone}"]
    return prepare(load_config("smoke", words))


def weights_of(setting: FederationSetup) -> Path:
    [file] = Path(setting.config.model.backbone or "").glob("unet/*.safetensors")
    return file


def change_one_number(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)


def test_a_worker_refuses_another_model(setting: FederationSetup, tmp_path: Path) -> None:
    with open_pool(setting, tmp_path) as (pool, _):
        assert pool.num_workers == 1
    assert audit_worker(setting, tmp_path).setup.backbone_hash == setting.backbone_hash
    change_one_number(weights_of(setting))
    message = r"expected the run's pre-trained model at .*, got another .*: put the run"
    with pytest.raises(ConfigError, match=message), open_pool(setting, tmp_path):
        pass
    with pytest.raises(ConfigError, match=message):
        audit_worker(setting, tmp_path)
