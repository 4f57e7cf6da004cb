"""The key of a run's private noise: its owner's alone, one for a run, gone with the run's end."""

from pathlib import Path

import pytest

from pipeline.config.load import load_config
from pipeline.config.tracking import TrackingConfig
from pipeline.runs.noise_key import drop_noise_key, keep_noise_key, read_noise
from pipeline.runs.record import make_run_dir, save_start
from spire_core.errors import RunError

PRIVATE = ("privacy.adapt.epsilon=4", "adapt.group_size=1", "adapt.num_images=8")


def test_a_run_has_one_key_which_its_owner_alone_can_read(tmp_path: Path) -> None:
    tracking = TrackingConfig(root=str(tmp_path))
    run_dir, config = make_run_dir(tracking, "0" * 32, "n", None), load_config("smoke", PRIVATE)
    path = run_dir / "noise.key"
    keep_noise_key(run_dir, load_config("smoke").privacy)
    assert not path.exists()  # nothing is private
    keep_noise_key(run_dir, config.privacy)
    key = path.read_bytes()
    assert (len(key), path.stat().st_mode & 0o777) == (32, 0o600)
    save_start(run_dir, config, "smoke", {})
    keep_noise_key(run_dir, config.privacy)
    assert path.read_bytes() == key
    read_noise(run_dir, config.privacy)
    path.write_bytes(key[:5])
    with pytest.raises(RunError, match=r"expected a noise key of 32 bytes .*, got 5: start a new"):
        read_noise(run_dir, config.privacy)
    drop_noise_key(run_dir)
    assert not path.exists()
    with pytest.raises(RunError, match="another key would spend its privacy twice"):
        keep_noise_key(run_dir, config.privacy)
