"""Rows of other stretches as runs: what they say, which of them counts, and wrong files."""

import csv
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import spire
from pipeline.config.tracking import TrackingConfig
from pipeline.tracking.mlflow_queries import TrackedRun
from spire_core.errors import RunError, SpireError
from sweeps.report import rows as rows_module
from sweeps.report import stretches as module
from sweeps.report.groups import group_runs, label, seed_of
from sweeps.report.make import make_report
from sweeps.report.row_runs import FILE, TAGS, control_rows, time_text
from sweeps.report.rows import client_rows, rows_text
from sweeps.report.stretches import Stretches, read_stretches, without_overruled

NO_STORE = TrackingConfig(uri="sqlite:////nowhere/mlflow.db")


def rows_of(run_id: str, seed: int = 4, method: str = "spire", **more: Any) -> list[dict]:
    """The rows of a run: a pre-training client, and two new ones with KID 1 and 2."""
    tags = {key: f"{key}-{seed}" for key in TAGS} | {"world.hull_tv": "0.25"}
    tags |= {"world.nearest_tv": "0.5", "extractor": "mnist-cnn", "extractor_hash": "b4"}
    head = {"run_id": run_id, "method": method, "seed": seed, "started": time_text(1000)}
    head |= {"federation.num_new_clients": 2} | tags | more
    old = head | {"clients": "pretraining", "client_id": 0, "kid": 0.5}
    new = [
        head | {"clients": "new", "client_id": i, "kid_after": i - 6, "kid_before": 4}
        for i in (7, 8)
    ]
    return [old, *new]


def written(path: Path, *rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(rows_text([row for several in rows for row in several]))
    return path


def cells(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_run_out_of_rows_has_settings_tags_and_means(tmp_path: Path) -> None:
    path = written(tmp_path / "rows.csv", rows_of("a", **{"adapt.num_images": 64}))
    found = read_stretches([path])
    [run] = found.runs
    assert (run.run_id, run.status, run.started_ms) == ("a", "FINISHED", 1000)
    assert run.finals["final/adapt_kid_after"] == 1.5
    assert run.finals["final/adapt_kid_ratio"] == 0.375
    assert run.finals["final/pretrain_kid_mean"] == 0.5
    assert run.params["adapt.num_images"] == "64"
    assert run.params["client.batch_size"] == "16", "without a column it is the default"
    assert (run.tags["world.hull_tv"], run.tags[FILE]) == ("0.25", str(path))


@pytest.mark.parametrize("blank", ["", "nan", "inf", None])
def test_a_score_that_some_clients_lack_has_no_mean(blank: object, tmp_path: Path) -> None:
    """As a tracked run, whose mean over these clients is NaN; what others have stays."""
    old, first, second = rows_of("a", tv_after=0.5, kid="", fld_excess=2.0)
    old |= {"kid": 0.5}
    tuned = {"clients": "tuned", "kid": 0.25, "tv": 0.125}
    rows = [old, old | {"client_id": 1, "kid": blank}, old | tuned, old | tuned | {"client_id": 1}]
    rows += [first, second | {"kid_after": blank, "fld_excess": blank}]
    [run] = read_stretches([written(tmp_path / "rows.csv", rows)]).runs
    assert not {"final/adapt_kid_after", "final/adapt_kid_ratio"} & run.finals.keys()
    assert "final/pretrain_kid_mean" not in run.finals
    assert run.finals["final/adapt_kid_before"] == 4
    assert run.finals["final/adapt_tv_after"] == 0.5
    assert run.finals["final/pretrain_tuned_kid_mean"] == 0.25
    assert run.finals["final/adapt_fld_excess"] == 2.0, "of those with fresh images alone"


def test_a_control_is_of_the_clients_that_have_it() -> None:
    near = {"kid_fresh": 0.25, "tv_fresh": 0.5, "nn_share_fresh": 0.5}
    _, first, second = rows_of("a", kid_copies=1.0, tv_copies=1.0, nn_p_fresh=0.5, tv_after=0.5)
    texts = [{k: str(v) for k, v in row.items()} for row in (first | near, second)]
    found = {row["control"]: row for row in control_rows(texts)}
    assert [(row["kid"], row["tv"], row["nn_p"]) for row in found.values()] == [
        (1.0, 1.0, None),
        (0.25, 0.5, 0.5),
        (1.5, 0.5, None),
    ]
    texts[1] |= {"kid_copies": "", "kid_after": "nan"}
    found = {row["control"]: row for row in control_rows(texts)}
    assert (found["copies"]["kid"], found["copies"]["tv"]) == (None, 1.0)
    assert (found["adapted"]["kid"], found["adapted"]["tv"]) == (None, 0.5)


def test_rows_of_rows_are_the_same_rows(tmp_path: Path) -> None:
    found = read_stretches([written(tmp_path / "rows.csv", rows_of("a"), rows_of("b", 5))])
    again = rows_text(client_rows(NO_STORE, found.runs, found))
    written_again = tmp_path / "again.csv"
    written_again.write_text(again)
    twice = read_stretches([written_again])
    assert cells(rows_text(client_rows(NO_STORE, twice.runs, twice))) == cells(again)
    assert [(r["seed"], r["kid_after"]) for r in cells(again)[1:3]] == [("4", "1"), ("4", "2")]


def test_a_setting_that_varies_between_files_alone_sets_their_runs_apart(tmp_path: Path) -> None:
    """In neither file does it vary, and one has its default: rows name every other value."""
    few = read_stretches([written(tmp_path / "few.csv", rows_of("b", **{"adapt.num_images": 4}))])
    alone = rows_text(client_rows(NO_STORE, few.runs, few))
    assert "adapt.num_images" in alone.partition("\n")[0].split(",")
    (tmp_path / "few.csv").write_text(alone)
    plain = written(tmp_path / "plain.csv", rows_of("a"))
    groups = group_runs(read_stretches([plain, tmp_path / "few.csv"]).runs)
    assert [label(group.task) for group in groups] == ["defaults", "adapt.num_images=4"]


def run(run_id: str, revision: str, started: int, file: str = "rows.csv") -> TrackedRun:
    tags = {"config_fingerprint": "c", "git_revision": revision} | ({FILE: file} if file else {})
    return TrackedRun(run_id, run_id, "FINISHED", {"seed": "1"}, tags, {}, started)


@pytest.mark.parametrize(
    ("runs", "left"),
    [
        ([run("a", "old", 2), run("b", "new", 1)], "b"),  # the later commit
        ([run("a", "new", 2), run("b", "new", 1)], "a"),  # of one commit the later run
        ([run("a", "gone", 1), run("b", "old", 2)], "b"),  # no commit to go by
        ([run("a", "new", 1, ""), run("b", "old", 2)], "a"),  # tracked here
        ([run("a", "old", 1, ""), run("b", "new", 2)], "b"),
        ([run("a", "old", 1, ""), run("b", "new", 2, "")], "ab"),  # rows have no part in it
    ],
)
def test_of_an_experiment_done_twice_the_later_commit_counts(
    monkeypatch: pytest.MonkeyPatch, runs: list[TrackedRun], left: str
) -> None:
    monkeypatch.setattr(module, "commit_time", {"old": 10, "new": 20}.get)
    assert [one.run_id for one in without_overruled(runs)] == list(left)


@pytest.mark.parametrize("tag", ["data_hash", "extractor_hash"])
def test_runs_on_other_images_are_no_repetition(tag: str) -> None:
    before = run("a", "old", 1)
    changed = replace(before, run_id="b", tags={**before.tags, tag: "another"})
    assert without_overruled([before, changed]) == [before, changed]


def test_a_run_of_the_store_has_the_scores_of_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where rows of it are at hand, which may be older than its audit."""
    old, *new = rows_of("a")
    seen = [{"clients": "pretraining", "client_id": 0}]
    seen += [{"clients": "new", "client_id": i, "mia_auc": 0.9} for i in (7, 8)]
    monkeypatch.setattr(rows_module, "_tracked_scores", lambda *_: iter(seen))
    for rows in ([old, *new], new):
        found = client_rows(NO_STORE, [TRACKED], Stretches((TRACKED,), {"a": rows}))
        assert [row.get("mia_auc") for row in found] == [None, 0.9, 0.9]


TRACKED = replace(run("a", "new", 1, ""), params={"federation.num_new_clients": "2"})


@pytest.mark.parametrize("left", [[], rows_of("a")[:2], rows_of("a")[1:]])
def test_a_run_whose_tables_the_store_has_lost_has_the_rows_that_were_read(
    monkeypatch: pytest.MonkeyPatch, left: list[dict]
) -> None:
    monkeypatch.setattr(rows_module, "_tracked_scores", lambda *_: iter(left))
    found = client_rows(NO_STORE, [TRACKED], Stretches((TRACKED,), {"a": rows_of("a")}))
    assert [row["client_id"] for row in found] == [0, 7, 8]
    assert {row["git_revision"] for row in found} == {"new"}
    whole = replace(TRACKED, run_id="b"), rows_of("b")
    if len(left) < 2:  # else it has all of its new clients
        with pytest.raises(RunError, match="expected scores of 2 new clients of run a for --rows"):
            client_rows(NO_STORE, [TRACKED, whole[0]], Stretches((whole[0],), {"b": whole[1]}))


def test_a_client_that_stands_twice_in_a_run_is_refused(tmp_path: Path) -> None:
    """As in files that were put together by hand."""
    twice = rows_of("a")
    path = written(tmp_path / "rows.csv", twice, rows_of("b", 5), twice)
    with pytest.raises(SpireError, match=r"a row of each client of run a in .*, got 2 of the pre"):
        read_stretches([path])
    for other in (7, "08"):
        rows = [*twice[:2], twice[2] | {"client_id": other}, twice[2]]
        with pytest.raises(SpireError, match=r", got 2 of the new client [78]: write it again"):
            read_stretches([written(tmp_path / "new.csv", rows)])


def test_a_seed_may_be_any_whole_number(tmp_path: Path) -> None:
    [run] = read_stretches([written(tmp_path / "rows.csv", rows_of("a", -1))]).runs
    assert seed_of(run) == -1


def test_a_run_that_is_tracked_here_too_is_the_tracked_one() -> None:
    found = Stretches((run("a", "new", 1), run("b", "new", 1)))
    assert [one.run_id for one in found.not_in([run("a", "old", 0, "")])] == ["b"]


def test_a_run_in_two_files_has_the_rows_of_the_last(tmp_path: Path) -> None:
    first = written(tmp_path / "1.csv", rows_of("a"))
    second = written(tmp_path / "2.csv", rows_of("a", method="local"))
    assert [run.params["method.name"] for run in read_stretches([first, second]).runs] == ["local"]


def test_a_file_that_ends_before_the_new_clients_is_no_finished_run(tmp_path: Path) -> None:
    """Its trial would never be run again."""
    path = written(tmp_path / "rows.csv", rows_of("a"), rows_of("b", 5)[:1])
    with pytest.raises(SpireError, match=r"expected rows of 2 new clients of run b in .*, got 0"):
        read_stretches([path])
    old = [rows_of("a")[0] | {"federation.num_new_clients": 0}]
    assert len(read_stretches([written(tmp_path / "old.csv", old)]).runs) == 1


def broken(rows: list[dict], change: Mapping[str, object]) -> list[dict]:
    return [*rows[:-1], rows[-1] | dict(change)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "x"}, "line 4 of .*, got seed 'x' and client '8'"),
        ({"seed": "--1"}, "got seed '--1'"),
        ({"client_id": -1}, "got seed '4' and client '-1'"),
        ({"client_id": ""}, "got seed '4' and client ''"),
        ({"clients": "others"}, "got clients 'others'"),
        ({"started": "yesterday"}, "got started 'yesterday'"),
        ({"world.nearest_tv": "far"}, "got coverage '0.25' and 'far'"),
        ({"world.nearest_tv": ""}, "got coverage '0.25' and ''"),
        ({"run_id": ""}, "got no run or no method"),
        ({"clients": "tuned"}, "expected rows of 2 new clients of run a in .*, got 1"),
        ({"run_id": "b"}, "expected rows of 2 new clients of run a in .*, got 1: write it again"),
    ],
)
def test_rows_that_name_nothing_are_refused(
    tmp_path: Path, change: Mapping[str, object], message: str
) -> None:
    path = written(tmp_path / "rows.csv", broken(rows_of("a"), change))
    with pytest.raises(SpireError, match=message):
        read_stretches([path])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a CSV file of rows in --rows-from, got .*No such file"),
        (b"\xff\xfe\x00", "expected a CSV file of rows"),
        (b"", "expected the columns of rows in .*, got none named run_id: write it again"),
        (b"method,seed\n1,2\n", "got none named run_id"),
        (b'a,"b\n', "expected a CSV file of rows .*unexpected end"),
        ("cut", "line 3 of .*, got another number of cells: write it again"),
        ("head", "expected rows in .*, got columns alone"),
    ],
)
def test_wrong_files_are_one_sentence(
    tmp_path: Path, content: bytes | str | None, message: str
) -> None:
    path, whole = tmp_path / "rows.csv", rows_text(rows_of("a")).encode()
    lines = whole.splitlines(keepends=True)
    if content is not None:
        cut = {"cut": lines[0] + lines[1] + lines[2][:20], "head": lines[0]}
        path.write_bytes(content if isinstance(content, bytes) else cut[content])
    with pytest.raises(SpireError, match=message) as error:
        read_stretches([path])
    assert "\n" not in str(error.value)


def test_a_report_of_rows_alone_needs_no_store(tmp_path: Path) -> None:
    path = written(tmp_path / "study" / "rows.csv", rows_of("a"), rows_of("b", 5))
    config = TrackingConfig(root=str(tmp_path), uri=NO_STORE.uri)
    report = make_report(config, [], None, None, read_stretches([path]))
    assert (report.name, report.folder) == ("study", tmp_path / "reports" / "study")
    table = report.table("new_clients")
    assert table is not None
    [row] = table.rows
    assert dict(zip(table.columns, row, strict=True))["n"] == 2
    assert report.facts["Rows"] == f"2 of the 2 runs are rows of other stretches: 2 of {path}"
    assert "0.25 from the convex hull" in report.facts["Coverage"]
    assert any(note.startswith("Runs out of rows") for note in report.notes)
    assert any("primary comparisons need its own run" in note for note in report.notes)
    settings = {"tracking.root": str(tmp_path), "tracking.uri": NO_STORE.uri}
    again = spire.report([], settings, tmp_path / "again", rows_from=[str(path)])
    assert again.table("new_clients") == table
    runs = report.table("runs")
    assert runs is not None
    assert [one[runs.columns.index("rows of")] for one in runs.rows] == [str(path)] * 2
