"""A run under masks: the same result whoever computes it, and a key that is gone at the end."""

import stat
from pathlib import Path

import pytest

from pipeline.config.load import load_config
from pipeline.config.schema import Config
from pipeline.experiment.run import resume_experiment, run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import RoundDriver
from pipeline.federation.rounds import RoundStats
from pipeline.runs.layout import MASK_KEY
from pipeline.runs.start import load_start

TINY = ("resources.pool=local", "tracking.enabled=false", "tracking.log_model=false")
TINY += ("eval.every=0", "eval.num_images=8", "eval.num_loss_images=8", "eval.num_clients=2")
TINY += ("diffusion.sample_steps=2", "federation.num_rounds=3", "tracking.checkpoint_every=1")
TINY += ("adapt.num_images=8", "adapt.epochs=1", "adapt.init=mean")


class Crash(Exception):
    """What a test ends a run with."""


class Watching(Watcher):
    """Remembers the key of masks; ends the run after the round that it is told."""

    def __init__(self, crashes_after: int = 0) -> None:
        self.crashes_after, self.keys, self.mode = crashes_after, list[bytes](), 0

    def started(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def after_round(self, stats: RoundStats, driver: RoundDriver) -> None:
        path = self.run_dir / MASK_KEY
        self.mode = stat.S_IMODE(path.stat().st_mode)
        self.keys.append(path.read_bytes())
        if stats.round_idx + 1 == self.crashes_after:
            raise Crash


def config_for(mnist_root: Path, root: Path, *words: str) -> Config:
    places = [f"data.root={mnist_root}", f"tracking.root={root}"]
    return load_config("smoke", [*TINY, *places, "federation.secure_aggregation=true", *words])


def test_the_key_of_masks_is_the_owners_and_gone_at_the_end(
    mnist_root: Path, tmp_path: Path
) -> None:
    """A resumed run masks its rounds with another key, to the same result."""
    config = config_for(mnist_root, tmp_path)
    whole, ended = Watching(), Watching(crashes_after=2)
    expected = run_experiment(config, "smoke", whole)
    with pytest.raises(Crash):
        run_experiment(config, "smoke", ended)
    again = Watching()
    resumed = resume_experiment(ended.run_dir, load_start(ended.run_dir)[0], again)
    assert resumed.state_fingerprint == expected.state_fingerprint
    assert {whole.mode, ended.mode, again.mode} == {0o600}
    assert len({*whole.keys, *ended.keys, *again.keys}) == 3
    assert not list(tmp_path.rglob(MASK_KEY))
