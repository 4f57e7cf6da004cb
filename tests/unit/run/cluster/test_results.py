"""Losses for want of memory or disk are sentences that name the setting to change."""

import re
from types import SimpleNamespace

import pytest
import torch
from ray.exceptions import (
    ActorDiedError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
)

from pipeline.cluster import results
from pipeline.cluster.results import Patience, loss_cause, loss_error, task_error, wait
from pipeline.cluster.watch import TICK_S
from pipeline.federation.work import SEE_LOG, ClientFailure
from spire_core.errors import ClusterError

MEMORY = "a process that was ended because memory is short"


@pytest.mark.parametrize(
    ("error", "cause", "remedy"),
    [
        (OutOfMemoryError("Task was killed\nmore"), MEMORY, "federation.cohort_size"),
        (OutOfDiskError("Local disk is full"), "a full disk under Ray", "/tmp/ray"),
        (ObjectStoreFullError("full"), "a full object store", "OBJECT_STORE_MEMORY_PROPORTION"),
        (ActorDiedError(), "the loss of one (The actor died unexpectedly", "Ray session folder"),
    ],
)
def test_a_loss_names_its_cause_and_the_setting(error: RayError, cause: str, remedy: str) -> None:
    told = str(loss_error(error))
    assert f"expected every actor to stay alive, got {cause}" in told
    assert remedy in told
    assert told.endswith("; spire resume goes on from the last checkpoint")
    assert "\n" not in told


def test_a_process_that_linux_killed_for_memory_is_told_from_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = results.KILLS_BEFORE
    monkeypatch.setattr(results, "oom_kills", lambda: before)
    assert loss_cause(ActorDiedError(), "its actor was lost")[1] == SEE_LOG
    monkeypatch.setattr(results, "oom_kills", lambda: before + 1)
    assert loss_cause(ActorDiedError(), "its actor was lost") == (MEMORY, results.LESS_MEMORY)
    assert "disk" in loss_cause(OutOfDiskError(), "what it was given is lost")[0]


def test_the_error_of_a_lost_client_has_the_remedy() -> None:
    cause, remedy = loss_cause(OutOfDiskError(), "what it was given is lost")
    told = str(ClientFailure(3, cause, remedy=remedy).error("fit_group", " in round 2"))
    assert told.startswith("expected fit_group to end for client 3 in round 2, got a full disk")
    assert "free the disk of /tmp/ray, or name a folder on another one with RAY_TMPDIR" in told


@pytest.mark.parametrize(
    ("cause", "sentence"),
    [
        (
            MemoryError(),
            r"expected memory for every client actor, got 'MemoryError': end what .* or",
        ),
        (
            torch.AcceleratorError("CUDA error: device-side assert triggered\nmore"),
            "expected every client actor to keep its GPU, got 'CUDA error: device-side assert trig",
        ),
    ],
)
def test_a_machines_fault_as_an_actor_begins_is_one_sentence(
    cause: Exception, sentence: str
) -> None:
    error = task_error(RayTaskError("begin", "the traceback", cause))
    assert isinstance(error, ClusterError)
    assert re.match(sentence, str(error))
    assert "\n" not in str(error)


def test_actors_lose_no_time_while_the_run_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sleeps for 500 s in the first slice of a wait; the answer comes 0.3 s into the second."""
    clock, answers = iter([0.0, 500.0, 500.0, 500.3]), iter([([], ["ref"]), (["ref"], [])])
    monkeypatch.setattr(results, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(results, "ray", SimpleNamespace(wait=lambda *_, **__: next(answers)))
    monkeypatch.setattr(results, "check_alive", lambda: None)
    patience = Patience(10.0)
    assert wait(["ref"], patience.left_s(1), "an actor", patience) == (["ref"], [])
    assert patience.left_s(2) == pytest.approx(20.0 - TICK_S - 0.3)
    patience.spent_s = 100.0
    assert patience.left_s(2) == 0.0
    assert Patience(None).left_s(2) is None
