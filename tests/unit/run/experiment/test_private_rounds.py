"""Protected rounds: what reaches the driver, and who is scored after a kill or a reuse."""

import io
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import Crash, Crasher, crashed, fingerprint_of, finished, small

from pipeline.checkpoint.snapshots import load_evaluations
from pipeline.clients.store import ClientStore
from pipeline.config.schema import Config
from pipeline.experiment.run import resume_experiment
from pipeline.experiment.watcher import Watcher
from pipeline.federation.pool import LocalClientPool
from pipeline.files.atomic import read_object
from pipeline.results.result import Result
from pipeline.runs.layout import SCORED
from pipeline.tracking.outbox import read_points
from spire_core.errors import RunError

SECURE = ("federation.secure_aggregation=true", "adapt.init=mean")
PRIVATE = ("client.opt_state=reset", "client.engine=loop", "privacy.rounds.epsilon=8")
SETTINGS = ("tracking.checkpoint_every=1", "federation.num_clients=24", "federation.cohort_size=5")
SETTINGS += ("federation.num_rounds=3", "federation.num_new_clients=1", "eval.every=2")
SETTINGS += ("eval.num_clients=null", "privacy.rounds.noise_cohort=24", *PRIVATE)


def arrays_in(answer: Any) -> list[np.ndarray]:
    """Return all arrays and tensors of an answer, found by pickling it."""
    found: list[np.ndarray] = []

    class Finder(pickle.Pickler):
        def persistent_id(self, thing: Any) -> None:
            if isinstance(thing, np.ndarray | torch.Tensor):
                found.append(np.asarray(thing))

    Finder(io.BytesIO()).dump(answer)
    return found


@pytest.mark.parametrize("words", [SECURE, (*PRIVATE, "federation.cohort_size=6")])
def test_of_the_clients_updates_their_total_alone_reaches_the_driver(
    words: tuple[str, ...], mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that a pool has answered in three rounds, but for the evaluations."""
    answers: list[tuple[str, Any]] = []

    def listening(name: str) -> None:
        plain = getattr(LocalClientPool, name)

        def answer(pool: LocalClientPool, task: Any, *args: Any, **more: Any) -> Any:
            found = plain(pool, task, *args, **more)
            answers.append((f"{name} {task}", found))
            return found

        monkeypatch.setattr(LocalClientPool, name, answer)

    for name in ("run_all", "each", "total"):
        listening(name)
    more = ("federation.num_rounds=3", "adapt.num_images=8")
    result = finished(small(mnist_root, tmp_path, *more, *words))
    size = result.setting.model.layout.num_without_local
    fits = [found for name, found in answers if name == "run_all fit"]
    for found in fits:
        assert arrays_in(found) == []
        assert all(report.loss is None for group in found for report in group)
    totals = [found for name, found in answers if name.startswith("total")]
    rounds = [total for total in totals if total.numbers.size >= size]
    assert len(fits) == len(rounds) == 3
    assert all(len(arrays_in(total)) == 1 for total in rounds)
    assert {name for name, _ in answers if name.startswith("each")} == {"each summed"}


@pytest.fixture(scope="module")
def config(mnist_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return small(mnist_root, tmp_path_factory.mktemp("private"), *SETTINGS)


@pytest.fixture(scope="module")
def other(config: Config) -> Result:
    """A finished run, whose rounds another takes over."""
    return finished(config)


@pytest.fixture(scope="module")
def begun(config: Config) -> Path:
    """A run of the same settings, with a key of its own, that has ended in its rounds."""
    return crashed(config, 2)


def scored(run_dir: Path) -> list[int]:
    return read_object(run_dir / SCORED)["client_ids"]


def check_scores(result: Result) -> None:
    assert set(result.setting.eval_ids) <= set(scored(result.run_dir))
    evaluations = list(load_evaluations(result.run_dir, 3))
    assert [one.round_idx for one in evaluations] == [0, 2, 3]
    assert {one.client_ids for one in evaluations} == {tuple(result.setting.eval_ids)}


def test_of_rounds_that_were_copied_in_part_nothing_stays(
    config: Config, other: Result, begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run trains by itself, and scores who took part in that."""
    run_dir, copy = Path(shutil.copytree(begun, tmp_path / "runs" / begun.name)), shutil.copy2

    def ending(file: Path, target: Path) -> None:
        if file.name == "0000000.safetensors":
            raise Crash
        copy(file, target)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copy2", ending)
        with pytest.raises(Crash):
            resume_experiment(run_dir, config, Watcher(), pretrained=other.run_dir)
    result = resume_experiment(run_dir, config, Watcher())
    trained = ClientStore(run_dir / "clients").rounds_seen(3).keys()
    assert trained == set(scored(run_dir)) != set(scored(other.run_dir))
    check_scores(result)
    assert result.state_fingerprint != other.state_fingerprint
    assert result.state_fingerprint == fingerprint_of(result, result.setting.new_ids)
    assert "partition_hash" not in (run_dir / "model" / "config.json").read_text()
    names = {name for _, metrics in read_points(run_dir) for name in metrics}
    assert "privacy/epsilon" in names
    assert "memory/rss_bytes" not in names, "a secret cohort moves the machine's load"
    (run_dir / SCORED).unlink()
    with pytest.raises(RunError, match=r"^expected the clients that took part"):
        finished(config, run_dir)


def test_a_run_that_has_taken_over_rounds_scores_who_took_part_in_them(
    config: Config, other: Result, begun: Path
) -> None:
    """Though it began rounds of its own, and also when it is resumed without the other run."""
    own = scored(begun)
    with pytest.raises(Crash):
        resume_experiment(begun, config, Crasher("pretrained"), pretrained=other.run_dir)
    found = resume_experiment(begun, config, Watcher())
    assert own != scored(begun) == scored(other.run_dir)
    assert found.setting.eval_ids == other.setting.eval_ids
    assert found.state_fingerprint == other.state_fingerprint
    check_scores(found)
