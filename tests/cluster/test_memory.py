"""Rounds leave nothing behind in memory: not in the run's process, its driver, its clients."""

import shutil
from pathlib import Path

import psutil
import pytest

from pipeline.config.load import load_config
from pipeline.experiment.run import run_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import Driver
from pipeline.federation.rounds import RoundStats

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.slow]
EARLY, LATE = 10, 50
ACTORS = ("ray::ClientActor", "ray::Driver")


class Weighing(Watcher):
    """Notes the resident memory of each process of a run, after two of its rounds.

    Pages that it shares are left out: Ray's object store, of fixed size, is mapped into all of
    them, and which part of it a process has touched says nothing about what the process keeps.
    """

    def __init__(self) -> None:
        self.rss: dict[int, dict[str, int]] = {}

    def after_round(self, stats: RoundStats, driver: Driver) -> None:
        if stats.round_idx + 1 in (EARLY, LATE):
            self.rss[stats.round_idx + 1] = {name: own(p) for name, p in processes()}


def own(process: psutil.Process) -> int:
    memory = process.memory_info()
    return memory.rss - memory.shared


def processes() -> list[tuple[str, psutil.Process]]:
    """This process and its actors, by name and id; an actor at work says so in its name."""
    this = psutil.Process()
    found = [("run", this)]
    for child in this.children(recursive=True):
        name = "".join(child.cmdline()[:1]).partition(".")[0]
        if name.startswith(ACTORS):
            found.append((f"{name} {child.pid}", child))
    return found


def test_fifty_rounds_need_no_more_memory_than_ten(
    mnist_root: Path, tmp_path: Path, new_database: Path
) -> None:
    shutil.copy(new_database, tmp_path)
    overrides = [
        f"data.root={mnist_root}",
        f"tracking.root={tmp_path}",
        f"tracking.uri=sqlite:///{tmp_path}/mlflow.db",
        "tracking.checkpoint_every=5",
        "tracking.log_model=false",
        "resources.num_actors=2",
        f"federation.num_rounds={LATE}",
        "federation.cohort_size=2",
        "federation.tau=1",
        "eval.every=0",
        "eval.extractor=none",
        "eval.num_loss_images=8",
        "eval.num_clients=2",
        "adapt.epochs=1",
    ]
    watcher = Weighing()
    run_experiment(load_config("smoke", overrides), None, watcher)
    early, late = watcher.rss[EARLY], watcher.rss[LATE]
    assert early.keys() == late.keys()
    assert len(early) == 4  # this process, the driver, two clients
    grown = {name: late[name] / early[name] for name in early}
    assert max(grown.values()) < 1.05, grown
