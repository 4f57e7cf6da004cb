"""The key of a run's private noise: a file that its owner alone can read, until there is a result.

The key is in no other file and in no message. Workers read it here, where they also keep the
clients' states. Copies of a run, checkpoints and remote storages leave it out.

A resumed run goes on with its key, so that a repeated step publishes what it published before. A
second key would publish the same images once more, with fresh noise. A run whose key is gone is
therefore not resumed. Nor is one on another kind of device: under the same noise, another sum would
be published.
"""

from pathlib import Path

from pipeline.files.atomic import sync, write_whole
from pipeline.runs.layout import NOISE_DEVICE, NOISE_KEY
from pipeline.runs.record import has_begun
from spire_core.config.privacy import PrivacyConfig, refuse_label
from spire_core.errors import RunError
from spire_core.privacy.noise import KEY_BYTES, SecretNoise, key_of, new_key


def keep_noise_key(run_dir: Path, privacy: PrivacyConfig) -> None:
    """Make sure that a run which draws private noise has its key; a new run gets one, durably.

    RunError if a run that has begun has lost its key. ConfigError if the given key is a label.
    """
    path = run_dir / NOISE_KEY
    if not privacy.is_on or path.is_file():
        return
    if has_begun(run_dir):
        raise RunError(
            f"expected the noise key with which the run began in {path}, got none: another key "
            "would spend its privacy twice, so start a new run"
        )
    key = key_for(privacy)
    path.touch(0o600, exist_ok=False)
    path.write_bytes(key)
    sync(path)


def keep_noise_device(run_dir: Path, privacy: PrivacyConfig, device: str) -> None:
    """Make sure that a run draws all its private noise on one kind of device, "cpu" or "cuda".

    RunError if it began on the other.
    """
    if not privacy.is_on:
        return
    path = run_dir / NOISE_DEVICE
    if not path.is_file():
        write_whole(path, device.encode(), is_lasting=True)
    began = path.read_text()
    if began != device:
        remedy = "set resources.device=cpu" if device == "cuda" else "resume it where it has a GPU"
        raise RunError(
            f"expected device {began} for the private noise of the run in {run_dir}, as when it "
            f"began, got {device}: its sums differ there, and the same noise on both would show "
            f"how, so {remedy}"
        )


def key_for(privacy: PrivacyConfig) -> bytes:
    """Return the given key or a fresh secret one; raises as `refuse_label` does."""
    refuse_label(privacy)
    return new_key() if privacy.noise_key is None else key_of(privacy.noise_key)


def read_noise(run_dir: Path, privacy: PrivacyConfig) -> SecretNoise:
    """Return the private noise of a run; RunError if its key is gone or damaged."""
    path = run_dir / NOISE_KEY
    key = path.read_bytes() if path.is_file() else b""
    if len(key) != KEY_BYTES:
        raise RunError(
            f"expected a noise key of {KEY_BYTES} bytes in {path}, got {len(key)}: start a new run"
        )
    return SecretNoise(key, is_simulated=privacy.noise_key is not None)


def drop_noise_key(run_dir: Path) -> None:
    """Delete the key of a run that nobody goes on with, and what is kept beside it."""
    for name in (NOISE_KEY, NOISE_DEVICE):
        (run_dir / name).unlink(missing_ok=True)
