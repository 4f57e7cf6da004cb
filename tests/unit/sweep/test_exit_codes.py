"""The exit codes of docs/cluster.md: what ended, what is left, what the machine could not do."""

from typing import Any

import pytest

from sweeps import cli, sweep


@pytest.mark.parametrize(
    ("num_failed", "num_unfinished", "code"),
    [(0, 0, 0), (2, 0, 1), (0, 3, 130), (1, 3, 1)],  # a failure counts for more than what is left
)
def test_a_sweep_says_by_its_code_what_became_of_its_trials(
    num_failed: int, num_unfinished: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"num_failed": num_failed, "num_unfinished": num_unfinished}
    monkeypatch.setattr(sweep, "run_sweep", lambda *_: None)
    monkeypatch.setattr(cli, "outcome_json", lambda _: counts)
    monkeypatch.setattr(cli, "outcome_text", lambda _: "done")
    monkeypatch.setattr(cli, "_reported", lambda *_: "")
    assert cli.main(["sweep", "smoke"]) == code


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (OSError(28, "No space left on device"), 2, "No space left on device"),
        (KeyboardInterrupt("spire resume goes on"), 130, "spire sweep: interrupted: spire resume"),
    ],
)
def test_what_the_machine_or_its_user_ends_is_one_sentence(
    error: BaseException,
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def ends(*_: Any) -> None:
        raise error

    monkeypatch.setattr(sweep, "run_sweep", ends)
    assert cli.main(["sweep", "smoke"]) == code
    assert told in capsys.readouterr().err
