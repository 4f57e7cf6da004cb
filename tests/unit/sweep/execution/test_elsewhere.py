"""Trials with committed rows of another machine are finished here."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from pipeline.config.load import flattened
from pipeline.config.meaning import fingerprint
from spire_core.errors import ConfigError, DataError
from sweeps.cli import main
from sweeps.design.config import SweepConfig
from sweeps.design.points import Trial, trials
from sweeps.execution.elsewhere import finished_elsewhere
from sweeps.execution.ledger import Ledger
from sweeps.execution.progress import read_progress
from sweeps.execution.trial_record import TrialRecord
from sweeps.report.row_runs import TAGS, time_text
from sweeps.report.rows import rows_text
from sweeps.report.stretches import Stretches, read_stretches, without_overruled

SWEEP = SweepConfig(name="study", preset="smoke", seeds=(0, 1))


def rows(trial: Trial, kid: float, **changes: object) -> list[dict[str, object]]:
    """The rows that a trial's run would have elsewhere: every new client has the same KID."""
    config = trial.config
    run = {"run_id": f"{trial.trial_id}{'0' * 20}", "method": config.method.name}
    run |= {"seed": config.seed, "started": time_text(1000)} | dict.fromkeys(TAGS, "unknown")
    run |= {"config_fingerprint": fingerprint(config), "state_fingerprint": "abc", "extractor": "e"}
    settings = {key: str(value) for key, value in flattened(config.as_dict()).items() if "." in key}
    scores = {"clients": "new", "kid_before": 4.0, "kid_after": kid}
    ids = range(config.federation.num_new_clients)
    return [run | settings | scores | {"client_id": i} | changes for i in ids]


def written(folder: Path, *several: list[dict[str, object]]) -> Path:
    path = folder / "rows.csv"
    path.write_text(rows_text([row for rows in several for row in rows]))
    return path


def test_a_trial_with_rows_is_finished_and_has_their_scores(tmp_path: Path) -> None:
    first, second = trials(SWEEP)
    other = rows(second, 2.0, config_fingerprint="f" * 64, run_id="other")
    path = written(tmp_path, rows(first, 0.5), other)
    records, stretches = finished_elsewhere(SWEEP, read_stretches([path]))
    assert records.keys() == {first.trial_id}
    assert records[first.trial_id].score(SWEEP) == 0.5
    assert [run.run_id[:12] for run in stretches.runs] == [first.trial_id]
    ledger = Ledger(tmp_path, records)
    progress = read_progress(SWEEP, ledger)
    assert progress.left() == [second]
    assert progress.elsewhere == {first.trial_id}
    ledger.write(TrialRecord(first.trial_id, "failed", error="lost"))  # here
    assert read_progress(SWEEP, ledger).left(retry_failed=True) == [second]
    assert ledger.own_records([first.trial_id])[first.trial_id].status == "failed"
    ledger.write(TrialRecord(first.trial_id, "finished"))
    assert read_progress(SWEEP, ledger).elsewhere == set()


def test_of_several_runs_of_a_trial_the_one_of_the_report_has_the_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the later commit, whichever stands first in the rows."""
    monkeypatch.setattr("sweeps.report.stretches.commit_time", {"old": 10, "new": 20}.get)
    first, _ = trials(SWEEP)
    later = rows(first, 0.5, git_revision="new")
    earlier = rows(first, 0.7, git_revision="old", run_id="b" * 32)
    records, stretches = finished_elsewhere(
        SWEEP, read_stretches([written(tmp_path, later, earlier)])
    )
    assert records[first.trial_id].score(SWEEP) == 0.5
    assert [run.run_id for run in without_overruled(stretches.runs)] == [later[0]["run_id"]]
    assert len(stretches.runs) == 2


@pytest.mark.parametrize(
    ("metric", "score"),
    [
        ("final/adapt_kid_worst", 0.75),
        ("final/adapt_kid_ratio", 0.125),
        ("pretrain/kid/mean", 2.0),
        ("pretrain/kid/worst", 3.0),
        ("pretrain/kid/std", 1.0),
    ],
)
def test_rows_have_the_metric_of_the_sweep(metric: str, score: float, tmp_path: Path) -> None:
    """Else the best trial would be one of those that ran here."""
    sweep = dataclasses.replace(SWEEP, metric=metric)
    first, _ = trials(sweep)
    new = rows(first, 0.5)
    for i, row in enumerate(new):
        row["kid_after"] = (0.25, 0.75, 0.5)[i % 3]
    old = [new[0] | {"clients": "pretraining", "client_id": i, "kid": 1 + 2 * i} for i in (0, 1)]
    records, _ = finished_elsewhere(sweep, read_stretches([written(tmp_path, old, new)]))
    assert records[first.trial_id].score(sweep) == score


def test_rows_of_another_sweep_or_seed_are_refused(tmp_path: Path) -> None:
    first, _ = trials(SWEEP)
    for change in ({"config_fingerprint": "f" * 64}, {"seed": 7}):
        stretches = read_stretches([written(tmp_path, rows(first, 0.5, **change))])
        with pytest.raises(DataError, match="got 1 runs of other configurations or seeds: name"):
            finished_elsewhere(SWEEP, stretches)


def test_a_search_that_learns_takes_no_rows(tmp_path: Path) -> None:
    axes = {"client.lr": {"min": 0.001, "max": 0.1}}
    search = SweepConfig("study", "smoke", {}, axes, (0,), "optuna", 2)
    stretches = read_stretches([written(tmp_path, rows(trials(SWEEP)[0], 0.5))])
    with pytest.raises(ConfigError, match=r"search=grid or search=random .*, got search=optuna"):
        finished_elsewhere(search, stretches)
    assert finished_elsewhere(search, Stretches())[0] == {}


def test_a_sweep_that_others_have_finished_reports_from_rows(
    tmp_path: Path,
    new_database: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has its own run, with the report and the primary comparisons; nothing is trained."""
    shutil.copy(new_database, tmp_path)
    monkeypatch.setenv("SPIRE_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    file = tmp_path / "study.yaml"
    file.write_text(
        "preset: smoke\naxes: {method: [spire, fedavg_ft]}\nseeds: [0, 1]\n"
        "primary: [{method: fedavg_ft}]\n"
    )
    sweep = SweepConfig("study", "smoke", {}, {"method": ["spire", "fedavg_ft"]}, (0, 1))
    path = written(tmp_path, *(rows(trial, 1 + i / 10) for i, trial in enumerate(trials(sweep))))
    assert main(["sweep", str(file), "--rows-from", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "4 of 4 trials have rows: not run again here" in err
    assert "sweep study: 4 finished (4 of them before, 4 in rows)" in out
    assert "minus SPIRE on the same seeds" in out
    assert "attached to run" in out
    report = (tmp_path / "reports" / "study" / "report.md").read_text()
    assert "Primary: new clients' KID, fedavg_ft against spire: " in report
    assert "4 of the 4 runs are rows of other stretches" in report
    assert main(["report", "study", "--rows-from", str(tmp_path / "none.csv")]) == 2
    assert "expected a CSV file of rows in --rows-from" in capsys.readouterr().err


def test_a_command_that_begins_with_a_part_of_a_study_leaves_it_its_size(
    tmp_path: Path, new_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of its three seeds and one of its two tasks, and then all seeds."""
    shutil.copy(new_database, tmp_path)
    monkeypatch.setenv("SPIRE_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    file, methods, seeds = tmp_path / "study.yaml", ["spire", "fedavg_ft"], (0, 1, 2)
    axes = {"method": methods, "adapt.num_images": [16, 64]}
    text = f"preset: smoke\naxes: {axes}\nseeds: [0, 1, 2]\nprimary: [{{method: fedavg_ft}}]\n"
    file.write_text(text)
    several = trials(SweepConfig("study", "smoke", {}, {**axes, "adapt.num_images": [16]}, seeds))
    path = written(tmp_path, *(rows(trial, 1 + i / 10) for i, trial in enumerate(several)))
    part = ["seeds=[0,1]", "axes.adapt.num_images=[16]"]
    report = tmp_path / "reports" / "study" / "report.md"
    for words, verdict in ((part, "cannot tell on 2 of 3 seeds"), (part[1:], "higher")):
        assert main(["sweep", str(file), *words, "--rows-from", str(path)]) == 0
        told = report.read_text()
        assert f"fedavg_ft against spire: {verdict} (ratio" in told
        assert "Holm of 2 " in told
        assert "num_images=64: Primary: new clients' KID, fedavg_ft against spire: there" in told


def test_a_dry_run_counts_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPIRE_ROOT", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "study.yaml").write_text("preset: smoke\nseeds: [0, 1]\n")
    path = written(tmp_path, *(rows(trial, 0.5) for trial in trials(SWEEP)))
    command = ["sweep", str(tmp_path / "study.yaml"), "--dry-run", "--rows-from", str(path)]
    assert main(command) == 0
    assert "2 trials, 0 of them left, 2 in rows" in capsys.readouterr().out
    idle = "privacy.adapt.delta=0.1"  # as the command itself, it goes on with what has begun
    assert main([*command, idle]) == 0
    assert main([*command[:3], idle]) == 2
    assert "which has no effect alone" in capsys.readouterr().err
