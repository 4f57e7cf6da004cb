"""The exit codes of docs/cluster.md: what ended, what is left, what the machine could not do."""

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
