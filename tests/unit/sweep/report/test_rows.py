"""Each client's scores of finished runs, out of a real MLflow store into one CSV file."""

import csv
import io
import resource
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.recompute import check_study
from pipeline.config.tracking import TrackingConfig
from pipeline.tracking.tracker import Tracker
from spire_core.errors import ConfigError, RunError
from sweeps.report.groups import Group
from sweeps.report.make import make_report
from sweeps.report.rows import rows_text, write_rows
from sweeps.report.stats import Estimate
from sweeps.report.stretches import read_stretches
from sweeps.report.tables import Table, cell_text

FINALS = {  # means over the clients of the tables below
    "spire": {
        "final/adapt_kid_after": 0.1,
        "final/adapt_tv_after": 0.3,
        "final/pretrain_kid_mean": 0.5,
        "final/pretrain_kid_worst": 0.5,
        "best/kid_mean": 0.4,
        "final/adapt_nn_share": 0.625,
        "final/adapt_nn_p": 0.25,
        "final/adapt_precision": 0.75,
        "final/adapt_recall": 0.5,
        "privacy/mia_auc": 0.7,
    },
    "local": {"final/adapt_kid_after": 1.5},
}
SWEEP = {
    "name": "study",
    "axes": {
        "fit": [
            {"method": "spire", "adapt.lr": 0.02, "eval.controls": True},
            {"method": "local", "adapt.lr": 0.1, "eval.controls": False},
        ]
    },
    "seeds": [4, 5],
    "primary": [{"method": "local"}],
}
NEW, LAST = "tables/new_clients.json", "tables/pretrain_round_3.json"
AUDITED = "tables/privacy_clients.json"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, new_database: Path) -> TrackingConfig:
    """A sweep of two methods; only the first has pre-training. And a run without any table."""
    root = tmp_path_factory.mktemp("rows")
    shutil.copy(new_database, root)
    config = TrackingConfig(root=str(root), uri=f"sqlite:///{root}/mlflow.db")
    with Tracker.start(config, "study", {"spire.kind": "sweep"}) as parent:
        parent.log_dict(SWEEP, "config/sweep.yaml")
        kids = {"client_id": [7, 8], "kid_after": [0.125, 0.075], "tv_after": [0.3, 0.1 + 0.2]}
        kids |= {"kid_copies": [0.25, 0.75], "nn_share": [0.5, 0.75]}
        mean = {"control": ["adapted", "copies"], "kid": [0.1, 0.5], "tv": [0.3, None]}
        mean |= {"nn_share": [0.625, None], "nn_p": [0.25, 0.0001], "num_clients": [2, 2]}
        mean |= {"precision": [0.75, 1.0], "recall": [0.5, None]}
        tables = {NEW: kids, LAST: {"client_id": [0], "kid": [0.5]}, "tables/controls.json": mean}
        tables[AUDITED] = {"client_id": [8, 7], "mia_auc": [0.9, 0.5]}
        log(config, parent.run_id, "spire", tables)
        log(config, parent.run_id, "local", {NEW: {"client_id": [7, 8], "kid_after": [1.0, 2.0]}})
    log(config, None, "fedavg", {})
    return config


def log(
    config: TrackingConfig,
    parent: str | None,
    method: str,
    tables: dict[str, dict[str, Sequence[Any]]],
) -> None:
    tags = {"method": method, "partition_hash": "p", "state_fingerprint": f"s-{method}"}
    tags |= {"git_revision": "abc", "config_fingerprint": f"c-{method}", "extractor": "mnist-cnn"}
    with Tracker.start(config, method, tags, parent) as tracker:
        params = {"method.name": method, "seed": 4, "federation.num_rounds": 3}
        params |= {"adapt.lr": 0.02 if method == "spire" else 0.1, "federation.num_new_clients": 2}
        params |= {"federation.cohort_size": 2}
        tracker.log_params(params | {"eval.controls": method == "spire"})
        for step in range(1, 4) if LAST in tables else ():
            sent = {"comm/up_bytes": 4000.0, "comm/down_bytes": 6000.0, "pretrain/dropped": 0.0}
            tracker.log_metrics(sent | {"time/round_s": 0.25 * step}, step)
        tracker.log_metrics(FINALS.get(method, {"final/adapt_kid_after": 1.0}), 0)
        tracker.log_table("tables/pretrain_round_0.json", {"client_id": [0], "kid": [9.0]})
        for path, columns in tables.items():
            tracker.log_table(path, columns)


def test_rows_hold_the_tables_of_every_run_unrounded(store: TrackingConfig, tmp_path: Path) -> None:
    report = make_report(store, ["study"], tmp_path / "report", tmp_path / "new" / "rows.csv")
    assert report.rows == tmp_path / "new" / "rows.csv"
    with report.rows.open(newline="") as file:
        rows = list(csv.DictReader(file))
    head = ("method", "adapt.lr", "clients", "client_id", "kid", "kid_after", "tv_after", "mia_auc")
    assert [tuple(row[column] for column in head) for row in rows] == [
        ("spire", "0.02", "pretraining", "0", "0.5", "", "", ""),
        ("spire", "0.02", "new", "7", "", "0.125", "0.3", "0.5"),
        ("spire", "0.02", "new", "8", "", "0.075", "0.30000000000000004", "0.9"),
        ("local", "0.1", "new", "7", "", "1.0", "", ""),
        ("local", "0.1", "new", "8", "", "2.0", "", ""),
    ]
    assert {row["seed"] for row in rows} == {"4"}
    ps = [(row["nn_p"], row["nn_p_copies"], row["precision_copies"]) for row in rows]
    assert ps == [("", "", ""), *[("0.25", "0.0001", "1.0")] * 2, ("", "", ""), ("", "", "")]
    assert {row["state_fingerprint"] for row in rows} == {"s-spire", "s-local"}
    costs = ("comm.up_kb_per_client_round", "comm.total_mb", "time.round_s")
    found = {tuple(row[column] for column in costs) for row in rows if row["method"] == "spire"}
    assert found == {("2.0", "0.03", "0.5")}  # 4 kB of two clients; 30 kB in three rounds
    assert len({row["run_id"] for row in rows}) == 2
    # It is the same in both, and the default or not.
    assert "federation.num_new_clients" in rows[0]
    assert "client.batch_size" not in rows[0]


def test_a_reports_tables_follow_from_its_rows(store: TrackingConfig, tmp_path: Path) -> None:
    """Apart from the columns that no client has, such as the best round."""
    folder = tmp_path / "study"
    make_report(store, ["study"], folder, folder / "rows.csv")
    in_tables, on_pages, wrong = check_study(folder)
    assert (wrong, on_pages) == ([], 0)
    assert in_tables > 10
    with (folder / "tables" / "controls.csv").open(newline="") as file:
        adapted, copies = csv.DictReader(file)
    assert (adapted["images"], adapted["KID"]) == ("drawn after adaptation", "0.1")
    assert (copies["images"], copies["KID"]) == ("copies of the training images", "0.5")
    assert float(copies["NN p"]) == pytest.approx(0.0001)
    rows = (folder / "rows.csv").read_text()
    (folder / "rows.csv").write_text(rows.replace(",1.0,", ",1.2,"))
    _, _, wrong = check_study(folder)
    assert any("new_clients.csv, line 3, KID after: '1.5', '1.6' worked out" in w for w in wrong)


def test_a_report_of_rows_has_the_tables_of_the_tracked_runs(
    store: TrackingConfig, tmp_path: Path
) -> None:
    """Apart from what no client has, such as the best round."""
    file = tmp_path / "study" / "rows.csv"
    tracked = make_report(store, ["study"], tmp_path / "tracked", file)
    alone = make_report(store, [], tmp_path / "alone", None, read_stretches([file]))
    assert alone.name == tracked.name
    for name in ("new_clients", "controls", "forgetting_and_cost", "differences", "privacy"):
        theirs, ours = tracked.table(name), alone.table(name)
        assert theirs is not None
        assert ours is not None
        columns = [column for column in theirs.columns if column in ours.columns]
        assert len(columns) > 3
        assert chosen(theirs, columns) == chosen(ours, columns)
    assert alone.table("primary") is None


def chosen(table: Table, columns: Sequence[str]) -> list[list[str]]:
    return [[cell_text(row[table.columns.index(c)]) for c in columns] for row in table.rows]


def test_tracked_runs_and_rows_of_another_machine_make_one_report(
    store: TrackingConfig, tmp_path: Path
) -> None:
    """The other machine ran the same on another seed, with KIDs three times as high."""
    file = tmp_path / "rows.csv"
    make_report(store, ["study"], tmp_path / "first", file)
    text = file.read_text()
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    for row in rows:
        kid = row["kid_after"] and float(row["kid_after"]) * 3
        row |= {"run_id": row["run_id"][::-1], "seed": "5", "kid_after": kid}
    other = tmp_path / "other.csv"
    other.write_text(rows_text(rows))
    merged, stretches = tmp_path / "merged.csv", read_stretches([file, other])
    report = make_report(store, ["study"], tmp_path / "second", merged, stretches)
    table = report.table("new_clients")
    assert table is not None
    found = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    assert {method: row["n"] for method, row in found.items()} == {"spire": 2, "local": 2}
    kid = found["local"]["KID after"]
    assert isinstance(kid, Estimate)
    assert kid.mean == pytest.approx((1.5 + 4.5) / 2)
    assert report.facts["Rows"].startswith("2 of the 4 runs are rows of other stretches: 2 of ")
    assert "one pair" not in report.answers[0], "the primary comparison has two seeds"
    assert report.pictures[0].name == "primary"
    assert merged.read_text().count("\n") == 2 * (text.count("\n") - 1) + 1


def test_a_sweep_tests_what_its_own_run_recorded(store: TrackingConfig, tmp_path: Path) -> None:
    report = make_report(store, ["study"], tmp_path)
    text = "Primary: new clients' KID, local against spire: one pair, which is no comparison."
    assert report.answers[0] == text
    assert report.tables[0].name == "primary"
    (row,) = report.tables[0].rows
    assert row[report.tables[0].columns.index("ratio")] == "15"
    assert "primary" not in [picture.name for picture in report.pictures], "it has no interval"
    unnamed = make_report(store, ["fedavg"], tmp_path / "other")
    assert unnamed.table("primary") is None


def test_runs_without_tables_are_no_rows(store: TrackingConfig, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"scores of 2 new clients of run .*, got 0: wait"):
        make_report(store, ["fedavg"], tmp_path / "report", tmp_path / "rows.csv")
    assert not (tmp_path / "rows.csv").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("name,price\nscrew,3\n", "a new file or one of rows in --rows, got"),
        ("\xff", "it is no rows, so name another"),
        (
            "run_id,method,seed,clients,client_id\nfeedfacecafe,spire,0,new,1\n",
            "with rows of other runs, such as feedface: add --rows-from",
        ),
    ],
)
def test_a_file_of_something_else_is_not_replaced(
    content: str, told: str, store: TrackingConfig, tmp_path: Path
) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match=told):
        make_report(store, ["study"], tmp_path / "report", file)
    assert file.read_text(encoding="latin-1") == content
    assert not (tmp_path / "report").exists()


def test_rows_of_this_report_are_replaced_by_more(store: TrackingConfig, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.touch()
    make_report(store, ["study"], tmp_path / "report", file)
    whole = file.read_text()
    file.write_text("".join(whole.splitlines(keepends=True)[:2]))
    make_report(store, ["study"], tmp_path / "report", file)
    assert file.read_text() == whole


def test_rows_of_other_columns_stand_in_one_file() -> None:
    text = rows_text([{"seed": 0, "git_revision": "a"}, {"seed": 1, "tau": 3, "git_revision": "b"}])
    found = list(csv.DictReader(io.StringIO(text)))
    assert [(row["seed"], row["tau"], row["git_revision"]) for row in found] == [
        ("0", "", "a"),
        ("1", "3", "b"),
    ]


def test_rows_that_cannot_be_written_leave_the_file_as_it_was(
    store: TrackingConfig, tmp_path: Path
) -> None:
    """Here beyond a limit on the size of files, in a file whose rows are to be extended."""
    file = tmp_path / "rows.csv"
    make_report(store, ["study"], tmp_path / "report", file)
    before, stretches = file.read_bytes(), read_stretches([file])
    groups = [Group((), "spire", (), stretches.runs)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(ConfigError, match=rf"^expected a file that can be .*, got {file} \("):
            write_rows(store, groups, stretches, file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == before
    assert [path for path in tmp_path.iterdir() if path.suffix == ".part"] == []
    with pytest.raises(ConfigError, match="Is a directory"):
        write_rows(store, groups, stretches, tmp_path)
