"""Whole runs with protected rounds: secure sums, and differential privacy of clients."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import finished, small

from pipeline.federation.pool import LocalClientPool

SECURE = ("federation.secure_aggregation=true", "adapt.init=mean")
PRIVATE = ("privacy.rounds.epsilon=8", "privacy.noise_key=k", "client.opt_state=reset")
PRIVATE += ("client.engine=loop", "federation.cohort_size=6")


def arrays_in(answer: Any) -> list[np.ndarray]:
    """Return all arrays and tensors of an answer, found by pickling it."""
    found: list[np.ndarray] = []

    class Finder(pickle.Pickler):
        def persistent_id(self, thing: Any) -> None:
            if isinstance(thing, np.ndarray | torch.Tensor):
                found.append(np.asarray(thing))

    Finder(io.BytesIO()).dump(answer)
    return found


@pytest.mark.parametrize("words", [SECURE, PRIVATE])
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

    for name in ("run_all", "each", "combined"):
        listening(name)
    more = ("federation.num_rounds=3", "adapt.num_images=8")
    result = finished(small(mnist_root, tmp_path, *more, *words))
    size = result.setting.model.layout.num_without_local
    fits = [found for name, found in answers if name == "run_all fit"]
    for found in fits:
        assert arrays_in(found) == []
        assert all(report.loss is None for group in found for report in group)
    totals = [found for name, found in answers if name.startswith("combined")]
    rounds = [total for total in totals if total.numbers.size >= size]
    assert len(fits) == len(rounds) == 3
    assert all(len(arrays_in(total)) == 1 for total in rounds)
    assert not any(name == "each sum_of" for name, _ in answers)
