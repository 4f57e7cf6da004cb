"""A whole report out of a real MLflow store, with numbers worked out by hand."""

import html
import io
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow import MlflowClient
from PIL import Image

from pipeline.config.tracking import TrackingConfig, tracking_uri
from pipeline.tracking.tracker import Tracker
from spire_core.errors import RunError
from sweeps.report.make import Report, make_report
from sweeps.report.tables import texts

KID = "final/adapt_kid_after"
AFTER = {"spire": (1.0, 2.0, 3.0), "fedavg_ft": (1.5, 2.5, 3.8), "local": (9.0, 9.0, 9.0)}
DIAGNOSES = {("spire", 1): "embedding_ignored"}
NAME = "a <b>bold</b> | sweep"
SWEEP = {"question": "which is <i>better</i>?", "seeds": [0, 1, 2]}
SWEEP |= {"primary": [{"method": "fedavg_ft"}]}


def log_run(
    config: TrackingConfig,
    parent: str,
    method: str,
    seed: int,
    finals: Mapping[str, float],
    params: Mapping[str, object] | None = None,
    tags: Mapping[str, str] | None = None,
) -> Tracker:
    own = {"method": method, "partition_hash": f"p{seed}", "extractor": "mnist-cnn"}
    own |= {"extractor_hash": "b4265a1bb2885c36", "state_fingerprint": f"{seed}abcdef0123"}
    told = {"method.name": method, "seed": seed, "data.name": "mnist", "model.d_emb": 4}
    told |= {"federation.cohort_size": 2, "diffusion.sampler": "ddim", "eval.num_images": 64}
    tracker = Tracker.start(config, f"{method}-s{seed}", own | dict(tags or {}), parent)
    tracker.log_params(told | dict(params or {}))
    tracker.log_metrics(finals, 3)
    return tracker


def log_experiment(config: TrackingConfig, parent: str, method: str, seed: int) -> None:
    """A finished run: `local` has no rounds and sends nothing."""
    finals = {KID: AFTER[method][seed], "final/adapt_kid_before": 10.0}
    finals |= {"final/adapt_kid_floor": -0.001, "final/adapt_forgetting_own": 0.0}
    if method != "local":
        near = 0.5 if method == "fedavg_ft" else 0.1
        finals |= {"final/adapt_nn_train": 5.0 - near * seed, "final/adapt_nn_test": 6.0}
        finals |= {"final/pretrain_kid_mean": 2.0, "best/kid_mean": 1.0, "best/round": 2.0}
    if method == "spire":
        finals |= {"privacy/emb_cos": 0.7 + seed / 10, "privacy/mia_auc": 0.5}
    with log_run(config, parent, method, seed, finals) as tracker:
        tracker.log_tags({"spire.diagnosis": DIAGNOSES.get((method, seed), "none")})
        for epoch in (0, 1):
            told = {"forgetting/own": 0.1 * epoch, "adapt/kid/mean": 10.0 - epoch}
            tracker.log_metrics(told, epoch)
        kids = [AFTER[method][seed] - 0.5, AFTER[method][seed] + 0.5]
        columns = {"client_id": [7, 8], "kid_before": [10.0, 10.0], "kid_after": kids}
        tracker.log_table("tables/new_clients.json", pd.DataFrame(columns))
        if method != "local":
            for step in (1, 2, 3):
                sent = {"comm/up_bytes": 3000.0 * step, "comm/down_bytes": 1000.0}
                sent["pretrain/dropped"] = 1.0 if method == "fedavg_ft" and step == 1 else 0.0
                told = {"pretrain/kid/mean": 10.0 / step + seed, "time/round_s": 0.25 * step}
                tracker.log_metrics(sent | told, step)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, new_database: Path) -> TrackingConfig:
    root = tmp_path_factory.mktemp("report")
    shutil.copy(new_database, root)
    return TrackingConfig(root=str(root), uri=f"sqlite:///{root}/mlflow.db")


@pytest.fixture(scope="module")
def parent(store: TrackingConfig) -> str:
    """Three methods on three seeds; one seed was run twice, and three runs did not finish."""
    with Tracker.start(store, NAME, {"spire.kind": "sweep"}) as tracker:
        tracker.log_dict(SWEEP, "config/sweep.yaml")
        with log_run(store, tracker.run_id, "spire", 0, {KID: 77.0}):
            pass
        for seed in range(3):
            for method in AFTER:
                log_experiment(store, tracker.run_id, method, seed)
        for status in ("FAILED", "KILLED"):
            log_run(store, tracker.run_id, "spire", 3, {"best/round": 1.0}).finish(status)
        log_run(store, tracker.run_id, "local", 3, {KID: 0.0})  # goes on
    return tracker.run_id


@pytest.fixture(scope="module")
def report(store: TrackingConfig, parent: str) -> Report:
    return make_report(store, [parent])


def rows(report: Report, name: str) -> pd.DataFrame:
    """A table as its CSV file holds it."""
    return pd.read_csv(report.folder / "tables" / f"{name}.csv").set_index("method")


def test_means_and_intervals_are_those_worked_out_by_hand(report: Report) -> None:
    found, told = rows(report, "new_clients"), report.values()
    assert [*found.index] == ["spire", "fedavg_ft", "local"]
    assert [*found["kid_after"]] == pytest.approx([2.0, 2.6, 9.0])
    assert found["kid_after: half interval"]["spire"] == pytest.approx(2.484138, abs=1e-6)
    assert [*found.n] == [3, 3, 3]
    assert found["nn_train"]["spire"] == pytest.approx(4.9)
    audited = rows(report, "privacy")  # the other methods' runs were not audited
    assert audited["privacy/emb_cos"].to_dict() == {"spire": pytest.approx(0.8)}
    shown = texts("new_clients", report.tables["new_clients"]).set_index("method")
    assert shown["kid_after"].to_dict() == {
        "spire": "2.0 ± 2.5",
        "fedavg_ft": "2.6 ± 2.9",
        "local": "9",
    }
    assert shown["nn_train"]["local"] == "-", "what a method lacks"
    assert re.search(r"spire +3 +2\.0 ± 2\.5", report.text())
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["tables"]["new_clients"][0]["kid_after"] == 2.0
    assert all(Path(path).is_file() for path in told["artifacts"]["tables"])


def test_bytes_are_those_of_all_rounds(report: Report) -> None:
    """Up 3000 + 6000 + 9000 of cohorts of 2 in 3 rounds: 3 kB each; with 3000 down, 21 kB."""
    found = rows(report, "cost")
    up = found["comm/up_kb_per_client_round"]
    assert (up["spire"], up["fedavg_ft"]) == (3.0, 3.6)  # one client of the six stayed away
    assert found["comm/total_mb"].to_dict() == {"spire": 0.021, "fedavg_ft": 0.021}
    assert found["time/round_s"]["spire"] == 0.5


def test_it_begins_with_what_it_found(report: Report) -> None:
    assert len(report.answers) == 1
    assert report.answers[0].startswith("spire is ahead with a KID of new clients of 2.00.")
    assert "fedavg_ft 1.33" in report.answers[0]
    assert rows(report, "differences")["verdict"]["local"] == "worse"
    text = report.html.read_text()
    assert text.index("spire is ahead") < text.index("KID over rounds")
    assert html.escape(NAME) in text
    assert re.search(r"url\(|@import|https://|<script|<link|<i>", text) is None, "one file"
    [row] = report.tables["comparisons"].itertuples()
    assert (row.n, row.Holm, row.verdict) == (3, row.p, "higher")
    assert report.facts["Runs"].startswith("9 finished, seeds 0, 1, 2; left out: 1 failed")
    assert len(rows(report, "runs")) == 13
    [ignored] = [note for note in report.notes if note.startswith("embedding_ignored")]
    assert re.match(r"embedding_ignored, seen in spire-s1: try .*emb_lr", ignored)


def test_curves_show_the_mean_and_the_range_over_seeds(report: Report) -> None:
    [picture] = [p for p in report.pictures if p.title == "KID over rounds"]
    axes = picture.figure.axes[0]
    lines = {str(line.get_label()): line for line in axes.lines}
    assert lines["spire"].get_xydata().tolist() == [[1, 11], [2, 6], [3, pytest.approx(10 / 3 + 1)]]
    assert "local" not in lines
    [path] = axes.collections[0].get_paths()
    assert (path.vertices[:, 1].min(), path.vertices[:, 1].max()) == (pytest.approx(10 / 3), 12.0)


def test_everything_is_attached_to_the_sweep(
    store: TrackingConfig, parent: str, report: Report
) -> None:
    client = MlflowClient(tracking_uri(store))
    folders = ("report", "report/tables")
    found = {a.path for at in folders for a in client.list_artifacts(parent, at) if not a.is_dir}
    assert found == {f"report/{p.relative_to(report.folder)}" for p in report.folder.rglob("*.*")}
    assert report.folder == Path(store.root or "") / "reports" / "a-b-bold-b-sweep"
    note = client.get_run(parent).data.tags["mlflow.note.content"]
    assert "- spire is ahead with" in note


# ---------------------------------------------------------------------------------- other sweeps


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, but it takes them seconds to become pictures."""
    monkeypatch.setattr("sweeps.report.make.svg_text", lambda figure: "<svg/>")


@pytest.mark.usefixtures("undrawn")
def test_an_axis_has_a_picture_and_a_sentence(store: TrackingConfig) -> None:
    with Tracker.start(store, "axes", {"spire.kind": "sweep"}) as tracker:
        for d_emb, kid in ((4, 3.0), (64, 1.0)):
            for seed in range(2):
                settings = {"model.d_emb": d_emb, "resources.num_actors": seed}
                with log_run(store, tracker.run_id, "spire", seed, {KID: kid + seed}, settings):
                    pass
        with log_run(store, tracker.run_id, "local", 0, {KID: 5.0}, {"model.d_emb": 64}):
            pass
    report = make_report(store, ["axes"])
    [picture] = report.axes
    assert picture.caption == "Best: spire at 64 (4: 2.45 times as high)."
    assert report.answers[0] == f"model.d_emb: {picture.caption}"
    assert len(report.tables["settings"]) == 3
    spire = {str(c.get_label()): c for c in picture.figure.axes[0].containers}["spire"]
    assert spire[0].get_xydata().tolist() == [[4.0, 3.5], [64.0, 1.5]]
    assert report.notes[0] == "2 seeds: too few to tell."


@pytest.mark.usefixtures("undrawn")
def test_trials_that_were_added_later_decide_nothing(store: TrackingConfig) -> None:
    recorded = {"seeds": [0, 1, 2], "primary": [{"method": "shared_rep"}]}
    with Tracker.start(store, "planned", {"spire.kind": "sweep"}) as tracker:
        tracker.log_dict(recorded, "config/sweep.yaml")
        tracker.log_dict(
            {"trial_ids": ["spire0", "spire1", "shared_rep0", "shared_rep1"]}, "config/trials.yaml"
        )
        for method, kid in (("spire", 1.0), ("shared_rep", 2.0)):
            for seed in range(3):
                tags = {"spire.trial_id": f"{method}{seed}"}
                with log_run(store, tracker.run_id, method, seed, {KID: kid + seed}, tags=tags):
                    pass
    report = make_report(store, ["planned"])
    assert [*report.tables["comparisons"].n] == [2]
    assert [*report.tables["differences"].n] == [3]


@pytest.mark.usefixtures("undrawn")
def test_samples_controls_and_prompts_are_shown(store: TrackingConfig, tmp_path: Path) -> None:
    picture = tmp_path / "client.png"
    Image.new("RGB", (32, 8)).save(picture)
    finals = {f"final/adapt_{name}_after": 0.5 for name in ("style_distance", "prompt_accuracy")}
    with (
        Tracker.start(store, "pictures", {"spire.kind": "sweep"}) as tracker,
        log_run(store, tracker.run_id, "spire", 0, finals, {"eval.controls": True}) as run,
    ):
        scores = {"client_id": [7], "kid_before": [2.0], "kid_after": [1.0]}
        run.log_table("tables/new_clients.json", pd.DataFrame(scores))
        controls: dict[str, Any] = {"control": ["adapted", "copies"], "kid": [0.1, 0.5]}
        run.log_table("tables/controls.json", pd.DataFrame(controls | {"nn_p": [0.25, 0.0001]}))
        run.log_file(picture, "samples/client_7.png")
    report = make_report(store, ["pictures"])
    [png] = report.samples.values()
    assert Image.open(io.BytesIO(png)).size == (16, 8)
    found = pd.read_csv(report.folder / "tables" / "controls.csv").set_index("images")
    assert found["kid"].to_dict() == {
        "drawn after adaptation": 0.1,
        "copies of the training images": 0.5,
    }
    assert [*report.tables["prompts"]["prompt_accuracy"]] == [0.5]
    assert "new_clients" not in report.tables, "scores of prompts have a table of their own"


@pytest.mark.usefixtures("undrawn")
def test_a_second_report_leaves_no_table_of_the_first_and_no_file_of_others(
    store: TrackingConfig, parent: str, tmp_path: Path
) -> None:
    """These are of runs alone, on one seed."""
    report = make_report(store, ["fedavg_ft-s1", "local-s1"], tmp_path)
    assert (report.parent_id, report.html) == (None, tmp_path / "report.html")
    assert [*rows(report, "new_clients")["kid_after"]] == [2.5, 9.0]
    assert report.html.read_text().count("1 seed: too few to tell.") == 1
    (tmp_path / "tables" / "mine.csv").write_text("")
    make_report(store, ["fedavg_ft-s1"], tmp_path)
    assert (tmp_path / "tables" / "mine.csv").exists()
    assert not (tmp_path / "tables" / "differences.csv").exists()
    with Tracker.start(store, "none", {"spire.kind": "sweep"}) as tracker:
        log_run(store, tracker.run_id, "spire", 0, {"best/round": 1.0}).finish("FAILED")
    with pytest.raises(RunError, match="finished experiment in 'none', got 1 failed: wait for one"):
        make_report(store, ["none"])
