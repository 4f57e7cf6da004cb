"""The first screen: every client's score, pictures that runs drew, marks, dates and commands."""

import io
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from pipeline.config.tracking import TrackingConfig
from pipeline.tracking.mlflow_queries import TrackedRun
from spire_core.config.method import OTHER_METHODS
from spire_core.methods import METHODS
from sweeps.primary import HELDOUT
from sweeps.report.answers import answers_of
from sweeps.report.client_dots import client_pictures
from sweeps.report.contents import Origin
from sweeps.report.facts import notes_of
from sweeps.report.groups import Group, group_runs, method_order
from sweeps.report.marks import best_cells
from sweeps.report.origins import origin_of, parameters_table
from sweeps.report.samples import MAX_SAMPLES, packed, partition_pictures, sample_pictures
from sweeps.report.stats import estimate
from sweeps.report.tables import NEW_CLIENTS, Table, groups_table
from sweeps.report.words import KID as WORD_KID
from sweeps.report.words import in_words, words_of

KID = "final/adapt_kid_after"
NOWHERE = TrackingConfig(uri="sqlite:///nowhere.db")


def run(method: str, seed: int = 0, kid: float = 1.0, **params: str) -> TrackedRun:
    told = {"method.name": method, "seed": str(seed), "adapt.lr": "0.1"} | params
    return TrackedRun(f"{method}{seed}", "", "FINISHED", told, {}, {KID: kid}, 0)


# --- every client ---------------------------------------------------------------------------------


def test_every_new_client_of_every_seed_is_a_dot_and_the_worst_has_a_ring() -> None:
    groups = group_runs([run("spire", 0, 2.0), run("spire", 1, 4.0), run("local", 0, 9.0)])
    rows = {
        "spire0": [{"kid_before": 5.0, "kid_after": 1.0}, {"kid_before": 6.0, "kid_after": 3.0}],
        "spire1": [{"kid_before": 7.0, "kid_after": 4.0}, {"kid_before": 7.0, "kid_after": None}],
    }
    (picture,) = client_pictures(groups, rows)  # `local` has no table
    (axes,) = picture.figure.axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ["spire"]
    before, after, worst = (np.asarray(dots.get_offsets())[:, 1] for dots in axes.collections[:3])
    assert (before.tolist(), after.tolist()) == ([5.0, 6.0, 7.0], [1.0, 3.0, 4.0])
    assert worst.tolist() == [4.0]
    (bar,) = axes.containers
    assert bar[0].get_ydata()[0] == 3.0
    (span,) = bar[2]
    assert [segment[:, 1].tolist() for segment in span.get_segments()] == [[2.0, 4.0]]  # of seeds


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"kid_before": 1.0, "kid_after": 2.0, "heldout_before": 1.0, "heldout_after": 1.0}, "KID"),
        ({"heldout_before": 1.0, "heldout_after": 1.0}, "held-out loss"),  # no features
    ],
)
def test_the_score_is_the_first_that_clients_have(row: dict[str, float], words: str) -> None:
    runs = [replace(r, finals={KID: 2.0, "final/adapt_heldout_after": 1.0}) for r in [run("spire")]]
    (picture,) = client_pictures(group_runs(runs), {"spire0": [row]})
    assert picture.title == f"New clients, one by one: {words}"


def test_each_task_has_a_plot_of_its_clients_and_no_table_means_no_plot() -> None:
    runs = [run("spire", **{"data.name": name}) for name in ("a", "b")]
    runs = [replace(r, run_id=r.params["data.name"]) for r in runs]
    rows = {name: [{"kid_before": 1.0, "kid_after": 2.0}] for name in ("a", "b")}
    pictures = client_pictures(group_runs(runs), rows)
    assert [p.name for p in pictures] == ["new_clients_1", "new_clients_2"]
    assert client_pictures(group_runs(runs), {"a": []}) == []


# --- words ----------------------------------------------------------------------------------------


def test_methods_and_kid_are_explained_once_where_they_occur() -> None:
    groups = group_runs([run("spire"), run("spire", 1), run("local"), run("elsewhere")])
    assert words_of(groups) == {
        "spire": "the server averages one model, and each client keeps an embedding; a new client "
        "trains its embedding",
        "local": "each client is on its own; a new client trains the whole model from scratch",
        "KID": WORD_KID,
    }
    plain = [replace(r, finals={"final/adapt_heldout_after": 1.0}) for r in [run("fedavg")]]
    assert words_of(group_runs(plain)) == {
        "fedavg": "the server averages one model; a new client trains nothing"
    }


@pytest.mark.parametrize(
    ("method", "trained"),
    [
        ("fedavg_ft", "one model; a new client trains the whole model"),
        ("shared_rep", "keeps some layers; a new client trains its own layers"),
        ("lora", "one model; a new client trains its adapter"),
        ("retrofit", "stays as it is, and each client keeps an embedding; a new client trains its"),
    ],
)
def test_a_method_is_explained_by_its_record(method: str, trained: str) -> None:
    assert trained in in_words(METHODS[method])


def test_methods_of_the_same_value_share_a_place() -> None:
    groups = group_runs([run("spire"), run("shared_rep"), run("local", kid=2.0)])
    assert answers_of(groups, KID)[0] == (
        "New clients: KID after adaptation is lowest with spire and shared_rep (1); local 2."
    )
    assert answers_of(groups[:2], KID)[0] == (
        "New clients: KID after adaptation is 1 with spire and shared_rep."
    )


def test_an_order_of_means_over_different_seeds_is_called_one() -> None:
    even = [run(method, seed) for method in ("spire", "lora") for seed in (0, 1)]
    for runs, is_said in ((even, False), ([*even, run("spire", 2)], True)):
        groups = group_runs(runs)
        notes = notes_of(groups, groups, KID)
        assert (
            any(note.startswith("Methods of a task have run on diff") for note in notes) == is_said
        )


def test_methods_are_ordered_on_the_seeds_that_all_have() -> None:
    """SPIRE's third seed is a hard one, and no reason to put it last."""
    runs = [run(m, seed, kid=kid) for m, kid in (("spire", 1.0), ("lora", 1.2)) for seed in (0, 1)]
    runs.append(run("spire", 2, kid=9.0))
    groups = group_runs(runs)
    assert answers_of(groups, KID)[0].startswith(
        "New clients: KID after adaptation, on the 2 seeds that all methods have, is lowest with "
        "spire (1"
    )
    table = groups_table("new_clients", "", groups, NEW_CLIENTS)
    assert table is not None
    assert best_cells(table) == set()  # means over other seeds are not held against each other
    [apart] = answers_of(group_runs([run("spire", 0), run("lora", 1)]), KID)[:1]
    assert (
        apart
        == "New clients: KID after adaptation has no order, since no seed has it of all methods."
    )


def test_losses_of_different_targets_have_no_order() -> None:
    both = [run("spire"), run("lora", kid=2.0)]
    params = {"diffusion.prediction": "eps"}
    for changed, num in (({}, 2), (params, 1)):
        runs = [replace(one, finals={**one.finals, HELDOUT: one.finals[KID]}) for one in both]
        runs[1] = replace(runs[1], params=runs[1].params | changed)
        answers = [
            one for one in answers_of(group_runs(runs), KID) if one.startswith("New clients")
        ]
        assert len(answers) == num


@pytest.mark.parametrize(
    ("params", "reasons"),
    [
        ([{}], ["a key that was given"]),
        ([{"privacy.rounds.noise_cohort": "10"}], ["a key that was given"]),  # the cohort's own
        ([{"privacy.rounds.noise_cohort": "1000"}], ["from a larger cohort"]),
        ([{"privacy.rounds.noise_cohort": "1000"}, {}], ["a larger cohort", "a key that was"]),
    ],
)
def test_a_simulated_promise_has_its_reason(
    params: list[dict[str, str]], reasons: list[str]
) -> None:
    runs = [run("fedavg_ft", i, **{"federation.cohort_size": "10"}) for i in range(len(params))]
    runs = [
        replace(one, tags=one.tags | {"dp": "simulated"}, params=one.params | more)
        for one, more in zip(runs, params, strict=True)
    ]
    groups = group_runs(runs)
    notes = [note for note in notes_of(groups, groups, KID) if "dp=simulated" in note]
    assert len(notes) == len(reasons)
    assert all(reason in note for reason, note in zip(reasons, notes, strict=True))


def test_no_question_is_answered_with_kid_where_captions_pair_the_images() -> None:
    distance = {"final/adapt_style_distance_after": 0.1, KID: 1.0}
    runs = [run("spire"), run("fedavg_ft", kid=2.0)]
    runs = [
        replace(one, finals=distance, params=one.params | {"model.text": "words"}) for one in runs
    ]
    assert answers_of(group_runs(runs), KID)[0] == (
        "New clients: distance to the true images is 0.1 with spire and fedavg_ft."
    )
    assert not any("KID" in answer for answer in answers_of(group_runs(runs), KID))


def test_a_term_of_the_loss_is_told() -> None:
    calm = replace(METHODS["spire"], name="calm", penalty=lambda w, w_0: (w - w_0).sum(-1))
    assert "an embedding, with a term of its own in the loss; a new" in in_words(calm)


def test_methods_of_other_packages_have_places_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(OTHER_METHODS, "names", lambda: ["both", "calm"])
    places = [method_order(name)[0] for name in (*METHODS, "both", "calm", "unknown")]
    assert places == list(range(len(METHODS) + 3))


# --- pictures -------------------------------------------------------------------------------------


def png(width: int = 40, height: int = 10, colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[Group]:
    """Nine groups whose runs hold two pictures, one of them damaged at the method `local`."""

    def read(_: TrackingConfig, run_id: str, path: str) -> bytes | None:
        assert path in ("samples/client_6.png", "plots/partition.png")
        return b"no picture" if run_id.startswith("local") else png()

    monkeypatch.setattr("sweeps.report.samples.artifact_bytes", read)
    return group_runs([run(name) for name in ("local", *map("m{}".format, range(9)))])


def test_each_method_shows_the_images_of_the_same_new_client(groups: list[Group]) -> None:
    rows = {group.runs[0].run_id: [{"client_id": 7}, {"client_id": 6}] for group in groups}
    shots = sample_pictures(NOWHERE, groups, rows)
    assert [shot.title for shot in shots] == [f"m{i}" for i in range(MAX_SAMPLES)]
    with Image.open(io.BytesIO(shots[0].png)) as picture:
        assert picture.size == (20, 10)  # the left half
        assert picture.convert("RGB").getpixel((3, 3)) == (255, 0, 0)
    assert sample_pictures(NOWHERE, groups, {}) == []


def test_a_task_shows_its_partition_once(groups: list[Group]) -> None:
    (shot,) = partition_pictures(NOWHERE, groups[1:])
    assert (shot.name, shot.title) == ("partition_1", "Partition")
    assert partition_pictures(NOWHERE, [g for g in groups if g.method == "local"]) == []


def test_a_damaged_picture_is_none() -> None:
    assert packed(b"") is None
    assert packed(png()[:-30]) is None


# --- marks ----------------------------------------------------------------------------------------


def test_the_lowest_mean_of_each_task_is_marked_and_what_reads_alike_with_it() -> None:
    values = [("a", 1.0, 5.0), ("a", 2.0, 5.0), ("b", 1.00001, 4.0), ("b", 1.0, 6.0), ("b", 2.0, 7)]
    rows = tuple((task, estimate([kid]), estimate([float(tv)])) for task, kid, tv in values)
    table = Table("new_clients", "", "", ("task", "KID after", "NN train"), rows)
    assert best_cells(table) == {(0, 1), (2, 1), (3, 1)}
    assert best_cells(replace(table, name="runs")) == set()
    assert best_cells(replace(table, rows=rows[:1])) == set()  # nothing to compare


def test_with_captions_no_kid_is_marked() -> None:
    found = {}
    for text in ("none", "words"):
        runs = [run("spire", **{"model.text": text}), run("local", kid=2.0, **{"model.text": text})]
        for one in runs:
            one.finals["final/adapt_tv_after"] = one.finals[KID]
        table = groups_table("new_clients", "", group_runs(runs), NEW_CLIENTS)
        assert table is not None
        found[text] = {table.columns[column] for _, column in best_cells(table)}
    assert found == {"none": {"KID after", "TV after"}, "words": {"TV after"}}


# --- origins --------------------------------------------------------------------------------------

START = int(datetime(2026, 3, 4, 5, 6, tzinfo=UTC).timestamp() * 1000)
MINUTE = 60_000


def test_the_date_and_the_time_that_runs_took() -> None:
    first, second = (
        replace(run("spire", seed), started_ms=START + seed * MINUTE, ended_ms=START + 3 * MINUTE)
        for seed in (0, 1)
    )
    assert origin_of(NOWHERE, None, [first]).when == "4 March 2026, 05:06 UTC, 3.0 min"
    assert origin_of(NOWHERE, None, [first, second]).when == (
        "4 March 2026, 05:06 UTC, 3.0 min (2 runs that took 5.0 min together)"
    )
    assert origin_of(NOWHERE, None, [replace(first, ended_ms=None)]).when == ""


def test_runs_are_linked_to_their_pages_where_the_store_has_pages() -> None:
    own = replace(run("spire"), experiment_id="3")
    page = "http://127.0.0.1:5000/#/experiments/3/runs/spire0?workflowType=machine_learning"
    assert origin_of(NOWHERE, None, [own]).links == {"spire0": page}
    server = TrackingConfig(uri="https://me:secret@server/")
    (link,) = origin_of(server, None, [own]).links.values()
    assert link.startswith("https://")
    assert "secret" not in link
    assert origin_of(TrackingConfig(uri="databricks"), None, [own]) == Origin()


def test_a_sweeps_question_and_file_are_those_that_its_run_recorded(
    tmp_path: Path, new_database: Path
) -> None:
    database = tmp_path / "mlflow.db"
    database.write_bytes(new_database.read_bytes())
    config = TrackingConfig(uri=f"sqlite:///{database}")
    client = MlflowClient(config.uri)
    place = client.create_experiment("e", (tmp_path / "artifacts").as_uri())
    run_id = client.create_run(place).info.run_id
    text = "name: mine\nquestion: Which is better?\n"
    client.log_text(run_id, text, "config/sweep.yaml")
    parent = replace(run("spire"), run_id=run_id, experiment_id=place)
    origin = origin_of(config, parent, [replace(run("spire"), experiment_id=place)])
    assert (origin.question, origin.sweep_file) == ("Which is better?", text)
    assert origin.command == "spire sweep sweep.yaml"
    assert set(origin.links) == {run_id, "spire0"}


def test_all_parameters_stand_in_the_appendix_with_each_value_once() -> None:
    table = parameters_table(group_runs([run("spire", 0), run("spire", 1), run("local", 0)]))
    assert dict(table.rows) == {
        "adapt.lr": "0.1",
        "method.name": "spire / local",
        "seed": "0 / 1",
    }
