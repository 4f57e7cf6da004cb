"""Small runs in this process: to the end, or until a test ends them."""

import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.clients.store import ClientStore
from pipeline.config.load import load_config
from pipeline.config.schema import Config
from pipeline.evaluation.scores import Evaluation
from pipeline.experiment.run import run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.rounds import RoundStats
from pipeline.results.result import Result
from spire_core.network.flat_model import tensors_hash

SMALL = ("tracking.enabled=false", "resources.pool=local", "adapt.epochs=1", "eval.every=0")
SMALL += ("eval.num_images=8", "eval.num_loss_images=8", "eval.num_clients=2")
SMALL += ("diffusion.sample_steps=2", "federation.num_rounds=2")
CACHE = tempfile.TemporaryDirectory()  # of real images' features, which runs have in common


def small(data: Path, root: Path, *words: str) -> Config:
    """Return the settings of a small run on the data of a store; the words come last."""
    cache = root / "runs" / "cache"
    if not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.symlink_to(CACHE.name)
    return load_config("smoke", [*SMALL, f"data.root={data}", f"tracking.root={root}", *words])


def finished(config: Config, pretrained: Path | None = None) -> Result:
    """Run an experiment to its end."""
    return run_experiment(config, "smoke", Watcher(), pretrained=pretrained)


class Crash(Exception):
    """What a test ends a run with."""


class Crasher(Watcher):
    """Ends a run after a round, at its "start", "evaluated 3", "pretrained", or not at all."""

    def __init__(self, at: int | str | None = None) -> None:
        self.at, self.rounds = at, list[int]()

    def started(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self._end("start")

    def after_round(self, stats: RoundStats, driver: Any) -> None:
        self.rounds.append(stats.round_idx)
        self._end(stats.round_idx + 1)

    def evaluated(self, evaluation: Evaluation, floor: float) -> None:
        self._end(f"evaluated {evaluation.round_idx}")

    def pretrained(self, run_dir: Path) -> None:
        self._end("pretrained")

    def _end(self, now: int | str) -> None:
        if now == self.at:
            raise Crash


def crashed(config: Config, at: int | str, **more: Any) -> Path:
    """Run an experiment until it is ended; return its folder."""
    crasher = Crasher(at)
    with pytest.raises(Crash):
        run_experiment(config, "smoke", crasher, **more)
    return crasher.run_dir


def fingerprint_of(result: Result, client_ids: Iterable[int]) -> str:
    """Return the fingerprint of a result's backbone and these clients' own parts."""
    backbone = {"backbone": torch.tensor(result.pretraining.weights)}
    digest = hashlib.sha256(tensors_hash(backbone).encode())
    for client_id in client_ids:
        state = ClientStore(result.run_dir / "clients").load(client_id)
        assert state is not None
        digest.update(f"{client_id}:{tensors_hash(dict(state.parts))}".encode())
    return digest.hexdigest()
