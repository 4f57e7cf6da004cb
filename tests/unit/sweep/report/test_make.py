"""A whole report out of a real MLflow store, with numbers worked out by hand."""

import csv
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from PIL import Image

from pipeline.config.tracking import TrackingConfig, tracking_uri
from pipeline.files.paths import JOB_MARK
from pipeline.tracking.mlflow_queries import NOTE
from pipeline.tracking.tracker import Tracker
from spire_core.errors import ClusterError, ConfigError, RunError
from sweeps.report import compose, origins
from sweeps.report.answers import ONE_SEED
from sweeps.report.contents import Report
from sweeps.report.files import report_json
from sweeps.report.make import make_report
from sweeps.report.terminal import report_text

AFTER = {"spire": (1.0, 2.0, 3.0), "fedavg_ft": (1.5, 2.5, 3.8), "local": (9.0, 9.0, 9.0)}
DIAGNOSES = {("spire", 1): "embedding_ignored,adaptation_overfitting"}
DIAGNOSES |= {("fedavg_ft", 2): "adaptation_overfitting"}
TRAINED = {"spire": 4, "fedavg_ft": 1000, "local": 1000}


def log_run(
    config: TrackingConfig,
    parent: str,
    method: str,
    seed: int,
    finals: Mapping[str, float],
    params: Mapping[str, object] | None = None,
) -> Tracker:
    tags = {"method": method, "partition_hash": f"p{seed}", "extractor": "mnist-cnn"}
    tags |= {"world.hull_tv": f"{0.1 + seed / 10}", "world.nearest_tv": "0.5"}
    tags |= {"extractor_hash": "b4265a1bb2885c36", "state_fingerprint": f"{seed}abcdef0123"}
    told = {"method.name": method, "seed": seed, "data.name": "mnist", "model.d_emb": 4}
    told |= {"federation.cohort_size": 2, "diffusion.sampler": "ddim", "eval.num_images": 64}
    tracker = Tracker.start(config, f"{method}-s{seed}", tags, parent)
    tracker.log_params(told | {"adapt.lr": None} | dict(params or {}))
    tracker.log_metrics(finals, 3)
    return tracker


def log_experiment(config: TrackingConfig, parent: str, method: str, seed: int) -> None:
    """A finished run: `local` has no rounds and sends nothing."""
    finals = {"final/adapt_kid_after": AFTER[method][seed], "final/adapt_kid_before": 10.0}
    finals |= {"params/trainable_new_client": float(TRAINED[method])}
    finals |= {"final/adapt_kid_floor": -0.001, "final/adapt_forgetting_own": 0.0}
    if method != "local":
        near = 0.5 if method == "fedavg_ft" else 0.1
        finals |= {"final/adapt_nn_train": 5.0 - near * seed, "final/adapt_nn_test": 6.0}
        finals |= {"final/pretrain_kid_mean": 2.0, "best/kid_mean": 1.0, "best/round": 2.0}
        finals |= {"final/pretrain_heldout_own": 0.125}
    if method == "spire":
        finals |= {"final/pretrain_heldout_zero": 0.25, "final/pretrain_heldout_swapped": 0.5}
        finals |= {"privacy/emb_cos": 0.7 + seed / 10, "privacy/mia_auc": 0.5}
    with log_run(config, parent, method, seed, finals) as tracker:
        tracker.log_tags({"spire.diagnosis": DIAGNOSES.get((method, seed), "none")})
        for epoch in (0, 1):
            tracker.log_metrics({"forgetting/own": 0.1 * epoch}, epoch)
        if method != "local":
            for step in (1, 2, 3):
                kid = 10.0 / step + seed
                sent = {"comm/up_bytes": 3000.0 * step, "comm/down_bytes": 1000.0}
                sent["pretrain/dropped"] = 1.0 if method == "fedavg_ft" and step == 1 else 0.0
                tracker.log_metrics(sent | {"pretrain/kid/mean": kid}, step)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, new_database: Path) -> TrackingConfig:
    root = tmp_path_factory.mktemp("report")
    shutil.copy(new_database, root)
    return TrackingConfig(root=str(root), uri=f"sqlite:///{root}/mlflow.db")


NAME = "a <b>bold</b> | sweep"


@pytest.fixture(scope="module")
def parent(store: TrackingConfig) -> str:
    """Three methods on three seeds; one seed was run twice, and three runs did not finish."""
    with Tracker.start(store, NAME, {"spire.kind": "sweep"}) as tracker:
        with log_run(store, tracker.run_id, "spire", 0, {"final/adapt_kid_after": 77.0}):
            pass
        for seed in range(3):
            for method in AFTER:
                log_experiment(store, tracker.run_id, method, seed)
        for status in ("FAILED", "KILLED"):
            log_run(store, tracker.run_id, "spire", 3, {"best/round": 1.0}).finish(status)
        log_run(store, tracker.run_id, "local", 3, {"final/adapt_kid_after": 0.0})  # goes on
    return tracker.run_id


@pytest.fixture(scope="module")
def report(store: TrackingConfig, parent: str) -> Report:
    return make_report(store, [parent])


def rows(report: Report, name: str) -> list[dict[str, str]]:
    """A table as its CSV file holds it."""
    with (report.folder / "tables" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_what_audited_runs_give_away_is_a_table(report: Report) -> None:
    (spire,) = rows(report, "privacy")  # the other methods' runs were not audited
    assert spire["method"] == "spire"
    assert float(spire["|cos| of embeddings"]) == pytest.approx(0.8)
    assert float(spire["attack AUC"]) == 0.5


def test_means_and_intervals_are_those_worked_out_by_hand(report: Report) -> None:
    spire, fedavg_ft, local = rows(report, "new_clients")
    assert [r["method"] for r in (spire, fedavg_ft, local)] == ["spire", "fedavg_ft", "local"]
    assert (spire["n"], float(spire["KID after"])) == ("3", 2.0)
    assert float(spire["KID after: half interval"]) == pytest.approx(2.484138, abs=1e-6)
    assert float(fedavg_ft["KID after"]) == pytest.approx(2.6)


def test_a_metric_that_a_method_lacks_is_left_blank(report: Report) -> None:
    spire, _, local = rows(report, "pretraining")
    assert (spire["KID, last round"], spire["best round"]) == ("2.0", "2.0")
    assert (local["n"], local["KID, last round"], local["KID, last round: n"]) == ("3", "", "")
    assert "TV" not in spire


def test_bytes_are_those_of_all_rounds(report: Report) -> None:
    """Up 3000 + 6000 + 9000 of cohorts of 2 in 3 rounds: 3 kB each; with 3000 down, 21 kB."""
    spire, fedavg_ft, local = rows(report, "forgetting_and_cost")
    assert float(spire["kB up per client and round"]) == 3.0
    assert (
        float(fedavg_ft["kB up per client and round"]) == 3.6
    )  # one client of the six stayed away
    assert float(spire["MB sent in total"]) == 0.021
    assert (local["kB up per client and round"], local["MB sent in total"]) == ("", "0.0")


def test_differences_are_paired_by_seed(report: Report) -> None:
    found = {(r["method"], r["score"]): r for r in rows(report, "differences")}
    ours = found["fedavg_ft", "new clients: KID after"]
    assert float(ours["minus SPIRE"]) == pytest.approx(0.6)
    assert float(ours["minus SPIRE: half interval"]) == pytest.approx(0.430265, abs=1e-6)
    assert (ours["pairs"], ours["verdict"]) == ("3", "higher")
    equal = found["fedavg_ft", "pre-training: KID, last round"]
    assert (equal["minus SPIRE"], equal["verdict"]) == ("0.0", "cannot tell")
    assert ("local", "pre-training: KID, last round") not in found


def test_nearness_to_training_images_is_compared_within_each_run(report: Report) -> None:
    """Distances to training minus test images are -1, -1.1, -1.2 and -1, -1.5, -2."""
    spire, fedavg_ft, local = rows(report, "new_clients")
    assert float(spire["NN train - test"]) == pytest.approx(-1.1)
    assert float(spire["NN train - test: half interval"]) == pytest.approx(0.248414, abs=1e-6)
    assert float(fedavg_ft["NN train - test"]) == pytest.approx(-1.5)
    assert local["NN train - test"] == ""
    found = {(r["method"], r["score"]): r for r in rows(report, "differences")}
    gap = found["fedavg_ft", "new clients: NN train - test"]
    assert (float(gap["minus SPIRE"]), gap["verdict"]) == (pytest.approx(-0.4), "cannot tell")


def test_what_an_embedding_is_used_for_stands_beside_the_held_out_loss(report: Report) -> None:
    found = {r["method"]: r for r in rows(report, "pretraining")}
    losses = ("held-out", "held-out, zero", "held-out, swapped")
    assert [found["spire"][name] for name in losses] == ["0.125", "0.25", "0.5"]
    assert [found["fedavg_ft"][name] for name in losses] == ["0.125", "", ""]


def test_fine_tuned_pretraining_clients_are_held_against_spires_own(store: TrackingConfig) -> None:
    kid, tuned = "final/pretrain_kid_mean", "final/pretrain_tuned_kid_mean"
    with Tracker.start(store, "tuned", {"spire.kind": "sweep"}) as tracker:
        for seed in (5, 6):
            for epochs, scores in (
                (0, {kid: 1.0}),  # SPIRE's
                (1, {kid: 3.0, tuned: 1.5 + 0.1 * (seed - 5)}),
                (4, {kid: 3.0, tuned: 0.5 + 0.1 * (seed - 5)}),
            ):
                method = "fedavg_ft" if epochs else "spire"
                finals = scores | {"final/adapt_kid_after": 2.0}
                settings = {"adapt.tune_epochs": epochs}
                with log_run(store, tracker.run_id, method, seed, finals, settings):
                    pass
    report = make_report(store, ["tuned"])
    found = {(r["method"], r["score"]): r for r in rows(report, "differences")}
    own = found["fedavg_ft", "pre-training: KID, own or fine-tuned models"]
    assert float(own["minus SPIRE"]) == pytest.approx(-0.45)  # of the better length
    assert float(found["fedavg_ft", "pre-training: KID, last round"]["minus SPIRE"]) == 2.0
    shown = {r["setting"]: r["KID, fine-tuned"] for r in rows(report, "settings")}
    assert shown.pop("adapt.tune_epochs=0") == ""  # SPIRE's, which nobody has fine-tuned
    assert {k: float(v) for k, v in shown.items()} == {
        "adapt.tune_epochs=1": pytest.approx(1.55),
        "adapt.tune_epochs=4": pytest.approx(0.55),
    }


def test_runs_that_are_left_out_are_counted_and_listed(report: Report) -> None:
    assert report.facts["Runs"] == (
        "9 finished (3 methods; 3 seeds: 0, 1, 2); left out: 1 failed, 1 killed, "
        "1 run again later, 1 running"
    )
    listed = rows(report, "runs")
    assert len(listed) == 13
    assert sorted({r["status"] for r in listed}) == ["FAILED", "FINISHED", "KILLED", "RUNNING"]
    assert listed[1]["state"] == "0abcdef0"


def test_known_failures_stand_beside_their_runs_with_what_to_try(report: Report) -> None:
    found = {(r["method"], r["seed"]): r["diagnosis"] for r in rows(report, "runs")[1:-3]}
    said = {key: DIAGNOSES.get((key[0], int(key[1])), "none") for key in found}
    assert found == said
    [ignored] = [note for note in report.notes if note.startswith("embedding_ignored")]
    assert re.match(r"embedding_ignored, seen in spire-s1 \(\w{8}\): try .*emb_lr", ignored)
    [overfitting] = [note for note in report.notes if note.startswith("adaptation_overfitting")]
    assert re.search(r"seen in spire-s1 \(\w{8}\), fedavg_ft-s2 \(\w{8}\): try", overfitting)
    assert f"note      {ignored}" in report_text(report)


def test_it_begins_with_what_it_found(report: Report) -> None:
    """Differences are 0.5, 0.5, 0.8 and 8, 7, 6; t is 4.303 at two degrees of freedom."""
    [new] = [answer for answer in report.answers if answer.startswith("New clients: ")]
    assert new == (
        "New clients: KID after adaptation is lowest with spire (2.0 ± 2.5); fedavg_ft 2.6 ± 2.9, "
        "local 9. On the same seeds, fedavg_ft is higher than spire by 0.60 ± 0.43; local is "
        "higher than spire by 7.0 ± 2.5."
    )
    [old] = [answer for answer in report.answers if answer.startswith("Pre-training clients: ")]
    assert "fedavg_ft cannot be told from spire" in old  # 2.0 on every seed
    assert ONE_SEED not in report.answers
    page = report.html.read_text()
    assert page.index("New clients: KID after") < page.index("<dt>Runs</dt>")


def test_it_says_what_scores_were_computed_with(report: Report) -> None:
    assert "mnist-cnn b4265a1b, 64 images per client" in report.facts["Scores"]
    assert report.facts["Sampling"].startswith("ddim, ")


def test_it_says_how_far_new_clients_are_covered(report: Report) -> None:
    assert report.facts["Coverage"].endswith(
        "at TV 0.1 to 0.3 from the convex hull of the pre-training clients', and at 0.5 from the "
        "nearest of them"
    )


def test_figures_exist_for_what_the_runs_have(report: Report) -> None:
    drawn = {p.stem: p for p in (report.folder / "figures").iterdir()}
    assert sorted(drawn) == sorted(p.name for p in report.pictures)
    names = {"kid_rounds", "forgetting", "kid_against_trained_parameters", "kid_against_sent_bytes"}
    assert drawn.keys() == names
    for name in names:
        with Image.open(report.folder / "figures" / f"{name}.png") as image:
            assert image.size[0] > 700
        assert "<svg" in (report.folder / "figures" / f"{name}.svg").read_text()


def test_curves_show_the_mean_and_the_range_over_seeds(report: Report) -> None:
    (picture,) = [p for p in report.pictures if p.name == "kid_rounds"]
    axes = picture.figure.axes[0]
    lines = {str(line.get_label()): line for line in axes.lines}
    assert lines["spire"].get_xydata().tolist() == [
        [1.0, 11.0],
        [2.0, 6.0],
        [3.0, pytest.approx(10 / 3 + 1)],
    ]
    assert "local" not in lines
    (path,) = axes.collections[0].get_paths()
    assert (path.vertices[:, 1].min(), path.vertices[:, 1].max()) == (pytest.approx(10 / 3), 12.0)
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in picture.figure.axes)


class Page(HTMLParser):
    """Collects what a page shows and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.shown = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loaded += [value or "" for key, value in attrs if key in ("src", "srcset")]

    def handle_data(self, data: str) -> None:
        self.shown += data


def test_the_page_is_one_file_and_shows_names_as_they_are(report: Report) -> None:
    text = report.html.read_text()
    page = Page(text)
    assert len(page.loaded) == 4
    assert all(src.startswith("data:image/svg+xml;base64,") for src in page.loaded)
    assert not {"script", "link", "iframe", "b"} & set(page.tags)
    assert re.search(r"url\(|@import", text) is None
    assert text.count("http://") == text.count('<a href="http://127.0.0.1:5000/#/experiments/')
    assert "https://" not in text
    assert NAME in page.shown
    assert "2.6 ± 2.9" in page.shown


def test_markdown_links_to_figures_that_exist_and_shows_names_as_they_are(report: Report) -> None:
    text = report.markdown.read_text()
    links = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert len(links) == 4
    assert all((report.folder / link).is_file() for link in links)
    assert text.startswith("# a &lt;b&gt;bold&lt;/b&gt; \\| sweep\n")
    table = [line for line in text.splitlines() if line.startswith("| spire | 3 |")]
    assert [line.count("|") for line in table] == [9, 9, 7, 5]


def test_everything_is_attached_to_the_sweep(
    store: TrackingConfig, parent: str, report: Report
) -> None:
    client = MlflowClient(tracking_uri(store))
    folders = ("report", "report/figures", "report/tables")
    found = {a.path for at in folders for a in client.list_artifacts(parent, at) if not a.is_dir}
    files = {f"report/{p.relative_to(report.folder)}" for p in report.folder.rglob("*.*")}
    assert found == files
    assert report.folder == Path(store.root or "") / "reports" / "a-b-bold-b-sweep"


def test_the_sweeps_run_is_described_by_what_was_found(
    store: TrackingConfig, parent: str, report: Report
) -> None:
    note = MlflowClient(tracking_uri(store)).get_run(parent).data.tags[NOTE]
    assert note.startswith("**a &lt;b&gt;bold&lt;/b&gt; \\| sweep**\n")
    assert "- New clients: KID after adaptation is lowest with spire" in note
    assert "| spire | 3 | 10" in note


def test_the_json_is_plain_and_equals_the_file(report: Report) -> None:
    told = report_json(report)
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert json.loads((report.folder / "report.json").read_text()) == told
    after = told["tables"]["new_clients"][0]["KID after"]
    assert (after["mean"], after["num"], after["low"], after["high"]) == (2.0, 3, 1.0, 3.0)
    assert all(Path(path).is_file() for path in told["artifacts"]["figures"])


def test_the_terminal_shows_methods_differences_and_the_page(report: Report) -> None:
    text = report_text(report)
    assert re.search(r"^ +spire +3 +2 +10 +2\.0 ± 2\.5$", text, re.MULTILINE)
    assert re.search(r"^ +local +3 +- +10 +9$", text, re.MULTILINE)
    assert re.search(r"fedavg_ft +new clients: KID after +0\.60 ± 0\.43 +3 +higher", text)
    assert f"{report.html}, attached to run {(report.parent_id or '')[:8]}" in text


# ---------------------------------------------------------------------------------- other sweeps


def test_one_seed_has_no_intervals_and_runs_alone_have_no_parent(
    store: TrackingConfig, parent: str, tmp_path: Path
) -> None:
    report = make_report(store, ["fedavg_ft-s0", "local-s1"], tmp_path / "new" / "folder")
    assert report.parent_id is None
    assert report.html == tmp_path / "new" / "folder" / "report.html"
    first, second = rows(report, "new_clients")
    assert (first["n"], first["KID after"], first["KID after: half interval"]) == ("1", "1.5", "")
    assert second["KID after"] == "9.0"
    assert report.table("differences") is None
    assert any("no finished run of spire" in note for note in report.notes)
    assert any("n is 1" in note for note in report.notes)
    assert report.answers == [
        "New clients: KID after adaptation has no order, since no seed has it of all methods.",
        ONE_SEED,
    ]
    assert re.search(r'<td class="best">1\.5</td>', report.html.read_text())


def test_settings_that_vary_have_a_table_a_figure_and_a_best(store: TrackingConfig) -> None:
    with Tracker.start(store, "axes", {"spire.kind": "sweep"}) as tracker:
        for d_emb, kid in ((4, 3.0), (64, 1.0)):
            for seed in range(2):
                finals = {"final/adapt_kid_after": kid + seed}
                settings = {"model.d_emb": d_emb, "resources.num_actors": seed}
                with log_run(store, tracker.run_id, "spire", seed, finals, settings):
                    pass
        for lr in (None, 0.1):
            settings = {"model.d_emb": 64, "adapt.lr": lr}
            with log_run(
                store, tracker.run_id, "local", 0, {"final/adapt_kid_after": 5.0}, settings
            ):
                pass
    report = make_report(store, ["axes"])
    assert [r["setting"] for r in rows(report, "new_clients")] == [
        "model.d_emb=64",
        "defaults",  # no embedding to size, and its own rate
    ]
    assert len(rows(report, "settings")) == 4
    assert [(r["setting"], r["method"], r["pairs"]) for r in rows(report, "by_setting")] == [
        ("model.d_emb=4", "local", "1"),  # it has no embedding
        ("model.d_emb=64", "local", "1"),
    ]
    within = [(r["method"], r["setting"], r["verdict"]) for r in rows(report, "within_methods")]
    assert within == [("spire", "model.d_emb=4", "higher"), ("spire", "model.d_emb=64", "")]
    assert any("its own best setting" in note for note in report.notes)
    assert [p.name for p in report.pictures] == [
        "kid_against_model_d_emb",
        "kid_against_adapt_lr",
        "kid_against_sent_bytes",
    ]
    axes = report.pictures[0].figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["4", "64"]
    assert axes.get_xlabel() == "size of the client embedding, d_emb [numbers]"
    spire = {str(c.get_label()): c for c in axes.containers}["spire"]
    assert spire[0].get_xydata().tolist() == [[4.0, 3.5], [64.0, 1.5]]
    rates = report.pictures[1].figure.axes[0]
    local = {str(c.get_label()): c for c in rates.containers}["local"]
    assert local[0].get_xdata().tolist() == [0.002, 0.1]  # the method's own rate, and the given one


def test_methods_are_compared_along_their_epochs(store: TrackingConfig) -> None:
    lines = {"spire": (1.0, 2.0), "fedavg_ft": (4.0, 1.0)}
    with Tracker.start(store, "epochs", {"spire.kind": "sweep"}) as tracker:
        for method, line in lines.items():
            for seed in (3, 4):
                finals = {"final/adapt_kid_after": line[-1]}
                with log_run(store, tracker.run_id, method, seed, finals) as run:
                    for epoch, kid in zip((0, 8, 16), (9.0, *line), strict=True):
                        told = {"adapt/train_loss": kid / 10, "adapt/heldout/mean": kid / 5}
                        run.log_metrics({"adapt/kid/mean": kid + seed - 3} | told, epoch)
    report = make_report(store, ["epochs"])
    (picture,) = (p for p in report.pictures if p.name == "overfitting")
    assert [axes.get_title() for axes in picture.figure.axes] == [
        "on training images",
        "on held-out images",
        "what is drawn",
    ]
    training = {str(line.get_label()): line for line in picture.figure.axes[0].get_lines()}
    assert training["spire"].get_xydata().tolist() == [[0.0, 0.9], [8.0, 0.1], [16.0, 0.2]]
    assert {r["new clients: KID after"] for r in rows(report, "runs")} == {"2", "1"}
    assert [
        (r["epochs"], r["method"], r["KID"], r["minus SPIRE"], r["verdict"])
        for r in rows(report, "epochs")
    ] == [
        ("8", "spire", "1.5", "", ""),
        ("8", "fedavg_ft", "4.5", "3.0", "higher"),
        ("16", "spire", "2.5", "", ""),
        ("16", "fedavg_ft", "1.5", "-1.0", "lower"),
    ]


def test_each_task_has_figures_of_its_own(store: TrackingConfig) -> None:
    with Tracker.start(store, "tasks", {"spire.kind": "sweep"}) as tracker:
        for data in ("mnist", "cifar10"):
            finals = {"final/adapt_kid_after": 1.0, "params/trainable_new_client": 4.0}
            with log_run(store, tracker.run_id, "spire", 0, finals, {"data.name": data}):
                pass
    report = make_report(store, ["tasks"])
    assert [p.name for p in report.pictures] == [
        "kid_against_trained_parameters_1",
        "kid_against_trained_parameters_2",
    ]
    assert [p.title.partition("(")[2] for p in report.pictures] == [
        "data.name=cifar10)",
        "data.name=mnist)",
    ]
    assert [r["task"] for r in rows(report, "new_clients")] == [
        "data.name=cifar10",
        "data.name=mnist",
    ]


def test_a_second_report_leaves_nothing_of_the_first(
    store: TrackingConfig, parent: str, tmp_path: Path
) -> None:
    make_report(store, [parent], tmp_path)
    own = [tmp_path / name for name in ("mine.txt", "figures/mine.png", "tables/mine.csv")]
    for path in own:
        path.write_text("")
    report = make_report(store, ["fedavg_ft-s1"], tmp_path)
    assert all(path.exists() for path in own)
    own[1].unlink()
    figures = [p.name for p in (tmp_path / "figures").iterdir()]
    kinds = ("png", "svg")
    assert sorted(figures) == sorted(f"{p.name}.{kind}" for p in report.pictures for kind in kinds)
    assert not (tmp_path / "tables" / "differences.csv").exists()


def test_a_report_that_fails_leaves_the_first_as_it_is(
    store: TrackingConfig, parent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_report(store, ["fedavg_ft-s1"], tmp_path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.*") if p.is_file()}

    def gone(*_: Any) -> None:
        raise ClusterError("expected the store to answer, got nothing: start it")

    monkeypatch.setattr(compose, "curves_of", gone)
    with pytest.raises(ClusterError, match="expected the store to answer"):
        make_report(store, ["fedavg_ft-s1"], tmp_path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.*") if p.is_file()} == before


def test_a_sweeps_file_of_its_users_is_kept(
    store: TrackingConfig, parent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "preset: smoke  # mine"
    (tmp_path / "sweep.yaml").write_text(text)
    told = origins.origin_of
    monkeypatch.setattr(
        compose, "origin_of", lambda *args: replace(told(*args), sweep_file="preset: smoke")
    )
    with pytest.raises(ConfigError, match=r"a folder without a file sweep\.yaml that is not a rep"):
        make_report(store, ["local-s1"], tmp_path)
    assert (tmp_path / "sweep.yaml").read_text() == text
    make_report(store, ["local-s1"], tmp_path / "other")
    make_report(store, ["local-s1"], tmp_path / "other")
    assert (tmp_path / "other" / "sweep.yaml").read_text() == "preset: smoke"


@pytest.mark.parametrize("name", ["report.html", "report.md", "report.json", "tables/runs.csv"])
def test_no_file_is_replaced_that_is_not_a_reports(
    name: str, store: TrackingConfig, parent: str, tmp_path: Path
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=rf"a folder without a file {re.escape(name)} that is no"):
        make_report(store, ["local-s1"], tmp_path)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == [Path(name).name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_sweep_without_a_finished_run_is_refused(store: TrackingConfig) -> None:
    with Tracker.start(store, "none", {"spire.kind": "sweep"}) as tracker:
        log_run(store, tracker.run_id, "spire", 0, {"best/round": 1.0}).finish("FAILED")
    with pytest.raises(RunError, match="finished experiment in 'none', got 1 failed: wait for one"):
        make_report(store, ["none"])


def test_a_folder_that_cannot_be_written_is_refused(
    store: TrackingConfig, parent: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="expected a folder that can be written"):
        make_report(store, [parent], tmp_path / "file")
    with pytest.raises(ConfigError, match="expected --out below a home that exists"):
        make_report(store, [parent], Path("~nobody-here/x"))


def test_a_folder_that_ray_deletes_is_refused(
    store: TrackingConfig, parent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(JOB_MARK, "{}")
    with pytest.raises(ConfigError, match="--out as an absolute path in a Ray job"):
        make_report(store, [parent], Path("out"))
    assert list(tmp_path.iterdir()) == []


def test_a_report_that_cannot_be_attached_is_complete(
    store: TrackingConfig, parent: str, tmp_path: Path
) -> None:
    artifacts = Path(store.root or "", "artifacts", parent)
    kept = artifacts.with_suffix(".kept")
    artifacts.rename(kept)
    artifacts.write_text("in the way")
    try:
        with pytest.raises(ClusterError, match=f"the report itself is complete, in {tmp_path}"):
            make_report(store, [parent], tmp_path)
    finally:
        artifacts.unlink()
        kept.rename(artifacts)
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_a_terminal_obeys_no_name(store: TrackingConfig) -> None:
    evil = "\x1b]0;pwned\x07\x1b[2J"
    finals = {"final/adapt_kid_after": 1.0, "final/pretrain_kid_mean": 2.0}
    with Tracker.start(store, f"evil {evil}", {"spire.kind": "sweep"}) as tracker:
        for lr in (f"{evil}1", f"{evil}2"):
            for method in ("spire", f"other{evil}"):
                with log_run(store, tracker.run_id, method, 0, finals, {"client.lr": lr}) as run:
                    run.log_tags({"spire.diagnosis": "embedding_ignored"})
    text = report_text(make_report(store, [tracker.run_id]))
    assert r"\x1b]0;pwned\x07" in text
    assert [c for c in text if not c.isprintable() and c != "\n"] == []
