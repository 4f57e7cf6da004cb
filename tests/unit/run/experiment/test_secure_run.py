"""Whole runs with protected rounds: under masks, and with differential privacy of clients."""

import stat
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from pipeline.checkpoint.snapshots import newest_checkpoint
from pipeline.config.load import load_config
from pipeline.config.meaning import pretrain_fingerprint
from pipeline.config.schema import Config
from pipeline.experiment.run import resume_experiment, run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import RoundDriver
from pipeline.federation.rounds import RoundStats
from pipeline.inference.arrival import adapt_arrival
from pipeline.inference.arrival_images import ArrivingImages
from pipeline.inference.saved_run import SavedRun
from pipeline.results.metric_names import EPSILON, ROUND_S, TRAIN_LOSS
from pipeline.results.recording import run_tags
from pipeline.runs.layout import MASK_KEY, NOISE_KEY
from pipeline.runs.start import load_start
from pipeline.tracking.outbox import read_points
from spire_core.errors import RunError

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
        if path.exists():
            self.mode = stat.S_IMODE(path.stat().st_mode)
            self.keys.append(path.read_bytes())
        if stats.round_idx + 1 == self.crashes_after:
            raise Crash


def config_for(mnist_root: Path, root: Path, *words: str) -> Config:
    places = [f"data.root={mnist_root}", f"tracking.root={root}"]
    return load_config("smoke", [*TINY, *places, *words])


def test_the_key_of_masks_is_the_owners_and_gone_at_the_end(
    mnist_root: Path, tmp_path: Path
) -> None:
    """A resumed run masks its rounds with another key, to the same result."""
    config = config_for(mnist_root, tmp_path, "federation.secure_aggregation=true")
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


def test_private_rounds_that_are_killed_publish_the_same_again(
    mnist_root: Path, tmp_path: Path
) -> None:
    """All clients take part in each round: what sampling spends takes seconds to work out.

    The run that is killed has masks beside the noise, which change nothing.
    """
    words = [
        "privacy.rounds.epsilon=8",
        "privacy.noise_key=k",
        "client.opt_state=reset",
        "client.engine=loop",
    ]
    words += ["federation.cohort_size=6", "adapt.init=zero"]
    config = config_for(mnist_root, tmp_path, *words)
    expected = run_experiment(config, "smoke", Watching())
    ended, masked = Watching(crashes_after=2), replace(config.federation, secure_aggregation=True)
    with pytest.raises(Crash):
        run_experiment(replace(config, federation=masked), "smoke", ended)
    assert ended.keys
    kept = newest_checkpoint(ended.run_dir, pretrain_fingerprint(load_start(ended.run_dir)[0]))
    assert kept is not None
    assert kept.releases is not None
    assert kept.releases.tolist() == [kept.round_idx]
    resumed = resume_experiment(ended.run_dir, load_start(ended.run_dir)[0], Watching())
    assert resumed.state_fingerprint == expected.state_fingerprint
    points = [(step, metrics) for step, metrics in read_points(ended.run_dir) if ROUND_S in metrics]
    spent = [metrics[EPSILON] for _, metrics in points]
    assert [step for step, _ in points] == [1, 2, 3]
    assert 0 < spent[0] < spent[1] < spent[2] <= 8
    assert not any(TRAIN_LOSS in metrics for _, metrics in points)
    assert len({metrics["comm/up_bytes"] for _, metrics in points}) == 1
    tags = run_tags(expected.setting, "smoke")
    assert (tags["dp"], tags["privacy.unit"]) == ("simulated", "one client")
    with safe_open(resumed.run_dir / "model" / "backbone.safetensors", "pt") as file:
        header = file.metadata()
    assert (header["privacy.unit"], header["privacy.dp"]) == ("one client", "simulated")
    assert (header["privacy.epsilon"], header["privacy.rounds"]) == ("8", "3")
    assert float(header["privacy.delta"]) == pytest.approx(6**-1.1)
    assert not list(tmp_path.rglob(NOISE_KEY))
    mean, images = replace(config.adapt, init="mean"), expected.setting.images[:8]
    with pytest.raises(RunError, match=r"adapt\.init=zero or random for a run with"):
        adapt_arrival(SavedRun.load(ended.run_dir), ArrivingImages(images), mean)
