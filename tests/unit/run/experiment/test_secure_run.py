"""Whole runs with protected rounds: secure sums, and differential privacy of clients."""

import io
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from pipeline.checkpoint.snapshots import newest_checkpoint
from pipeline.config.load import load_config
from pipeline.config.meaning import pretrain_fingerprint
from pipeline.config.schema import Config
from pipeline.experiment.run import resume_experiment, run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import RoundDriver
from pipeline.federation.pool import LocalClientPool
from pipeline.federation.rounds import RoundStats
from pipeline.inference.arrival import adapt_arrival
from pipeline.inference.arrival_images import ArrivingImages
from pipeline.inference.saved_run import SavedRun
from pipeline.results.metric_names import EPSILON, ROUND_S, TRAIN_LOSS
from pipeline.results.recording import run_tags
from pipeline.runs.layout import NOISE_KEY
from pipeline.runs.record import load_start
from pipeline.tracking.outbox import read_points
from spire_core.errors import RunError

TINY = ("resources.pool=local", "tracking.enabled=false", "tracking.log_model=false")
TINY += ("eval.every=0", "eval.num_images=8", "eval.num_loss_images=8", "eval.num_clients=2")
TINY += ("diffusion.sample_steps=2", "federation.num_rounds=3", "tracking.checkpoint_every=1")
TINY += ("adapt.num_images=8", "adapt.epochs=1", "adapt.init=mean")


class Crash(Exception):
    """What a test ends a run with."""


class Watching(Watcher):
    """Ends the run after the round that it is told."""

    def __init__(self, crashes_after: int = 0) -> None:
        self.crashes_after = crashes_after

    def started(self, run_dir: Path) -> None:
        self.run_dir = run_dir

    def after_round(self, stats: RoundStats, driver: RoundDriver) -> None:
        if stats.round_idx + 1 == self.crashes_after:
            raise Crash


def config_for(mnist_root: Path, root: Path, *words: str) -> Config:
    places = [f"data.root={mnist_root}", f"tracking.root={root}"]
    return load_config("smoke", [*TINY, *places, *words])


PRIVATE = ("privacy.rounds.epsilon=8", "privacy.noise_key=k", "client.opt_state=reset")
PRIVATE += ("client.engine=loop", "federation.cohort_size=6", "adapt.init=zero")


def arrays_in(answer: Any) -> list[np.ndarray]:
    """Return all arrays and tensors of an answer, found by pickling it."""
    found: list[np.ndarray] = []

    class Finder(pickle.Pickler):
        def persistent_id(self, thing: Any) -> None:
            if isinstance(thing, np.ndarray | torch.Tensor):
                found.append(np.asarray(thing))

    Finder(io.BytesIO()).dump(answer)
    return found


@pytest.mark.parametrize("words", [("federation.secure_aggregation=true",), PRIVATE])
def test_of_the_clients_updates_their_total_alone_reaches_the_driver(
    words: tuple[str, ...], mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a pool has answered in three rounds, but for the evaluations."""
    answers: list[tuple[str, Any]] = []

    def listening(name: str) -> None:
        plain = getattr(LocalClientPool, name)

        def answer(pool: LocalClientPool, task: str, *args: Any, **more: Any) -> Any:
            found = plain(pool, task, *args, **more)
            answers.append((f"{name} {task}", found))
            return found

        monkeypatch.setattr(LocalClientPool, name, answer)

    for name in ("run_all", "ask_first", "combined"):
        listening(name)
    result = run_experiment(config_for(mnist_root, tmp_path, *words), "smoke", Watching())
    size = result.setting.model.layout.num_without_local
    of_rounds = [(name, found) for name, found in answers if name.endswith((" fit", " sum_of"))]
    assert [name for name, _ in of_rounds].count("combined sum_of") >= 3
    for name, found in of_rounds:
        if name == "run_all fit":
            assert arrays_in(found) == []
            assert all(report.loss is None for group in found for report in group)
    totals = [found for name, found in of_rounds if name == "combined sum_of"]
    rounds = [total for total in totals if total.numbers.size >= size]
    assert len(rounds) == 3
    assert all(len(arrays_in(total)) == 1 for total in rounds)
    assert not any(name == "ask_first sum_of" for name, _ in of_rounds)


def test_private_rounds_that_are_killed_publish_the_same_again(
    mnist_root: Path, tmp_path: Path
) -> None:
    """All clients take part in each round: what sampling spends takes seconds to work out.

    The run that is killed has secure sums beside the noise, which change nothing.
    """
    config = config_for(mnist_root, tmp_path, *PRIVATE)
    expected = run_experiment(config, "smoke", Watching())
    ended, secure = Watching(crashes_after=2), replace(config.federation, secure_aggregation=True)
    with pytest.raises(Crash):
        run_experiment(replace(config, federation=secure), "smoke", ended)
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
    assert (float(header["privacy.epsilon"]), header["privacy.num_steps"]) == (8.0, "3")
    assert float(header["privacy.delta"]) == pytest.approx(6**-1.1)
    assert not list(tmp_path.rglob(NOISE_KEY))
    mean, images = replace(config.adapt, init="mean"), expected.setting.images[:8]
    with pytest.raises(RunError, match=r"adapt\.init=zero or random for a run with"):
        adapt_arrival(SavedRun.load(ended.run_dir), ArrivingImages(images), mean)
