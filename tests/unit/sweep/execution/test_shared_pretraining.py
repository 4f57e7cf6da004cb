"""Pre-training that several trials have in common is done by one process at a time, and once."""

import threading
from pathlib import Path

import pytest
from trial_runs import begun

from pipeline.config.tracking import TrackingConfig
from sweeps.execution.study import Study
from sweeps.execution.trial import SharedPretraining


def goes_on() -> None:
    """Nothing ends the wait."""


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return Study(tmp_path / "studies" / "a")


def shared(study: Study, fingerprint: str = "abc", is_whole: bool = True) -> SharedPretraining:
    return SharedPretraining(study, study.folder / "p", fingerprint, lambda _: is_whole)


def test_what_one_does_the_others_wait_for_and_reuse(study: Study, tmp_path: Path) -> None:
    run_dir = begun(study, "t", TrackingConfig(enabled=False, root=str(tmp_path)))
    first, second, third = (shared(study) for _ in range(3))
    assert first.acquire(goes_on) is None
    found: list[Path | None] = []
    waiting = threading.Thread(target=lambda: found.append(second.acquire(goes_on)), daemon=True)
    waiting.start()
    waiting.join(timeout=0.3)
    assert waiting.is_alive()
    first.publish(run_dir)
    waiting.join(timeout=60)
    assert found == [run_dir]
    assert third.acquire(goes_on) == run_dir
    first.publish(tmp_path / "elsewhere")  # has no lock any more: says nothing
    assert shared(study).acquire(goes_on) == run_dir
    assert shared(study, is_whole=False).acquire(goes_on) is None  # a damaged one is done again


def test_what_is_released_is_done_by_the_next_and_another_is_not_waited_for(study: Study) -> None:
    failing, other = shared(study), shared(study, "def")
    assert failing.acquire(goes_on) is None
    assert other.acquire(goes_on) is None
    failing.release()
    again = shared(study)
    assert again.acquire(goes_on) is None

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # a wait ends with the command
        shared(study).acquire(stop)
    for one in (again, other):
        one.release()
