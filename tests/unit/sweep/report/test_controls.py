"""The report's table of controls, from rows of runs that are written out by hand."""

import math
from dataclasses import replace
from typing import Any

import pytest

from pipeline.tracking.mlflow_queries import TrackedRun
from sweeps.report.controls import controls_table
from sweeps.report.facts import facts_of
from sweeps.report.fit_axis import sets_aside
from sweeps.report.groups import group_runs
from sweeps.report.stats import Estimate

KIDS = {"spire": 0.5, "fedavg_ft": 0.4}


def run(method: str, seed: int) -> TrackedRun:
    told, tags = {"method.name": method, "seed": str(seed)}, {"partition_hash": f"p{seed}"}
    finals = {"final/adapt_kid_after": KIDS[method], "final/adapt_nn_p": 0.05}
    return TrackedRun(f"{method}-{seed}", "", "FINISHED", told, tags, finals, 0)


def row(control: str, kid: float, p: float | None, tv: float | None = None) -> dict[str, Any]:
    near = {"nn_share": 0.6, "nn_chance": 0.5, "nn_auc": 0.7}
    near |= {"fld_gap": -100 * kid, "precision": 0.9}  # as runs had none, recall is unknown
    return {"control": control, "kid": kid, "tv": tv, **near, "nn_p": p, "num_clients": 3}


RUNS = [run(method, seed) for method in KIDS for seed in (0, 1)]
ROWS = {
    one.run_id: [
        row("adapted", KIDS[one.params["method.name"]] + seed, 0.05),
        row("copies", 0.1 + seed, 0.0001),
        row("fresh", 0.0, 0.5),
        row("nearest_draws" if one.run_id.startswith("spire") else "nearest_images", 0.9, None),
    ]
    for one in RUNS
    for seed in [int(one.params["seed"])]
}


def rows_of(rows: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    table = controls_table(group_runs(RUNS), rows)
    assert table is not None
    return [dict(zip(table.columns, cells, strict=True)) for cells in table.rows]


def test_methods_stand_beside_what_no_fit_has_drawn() -> None:
    rows = rows_of(ROWS)
    assert [(row["method"], row["images"], row["n"]) for row in rows] == [
        ("spire", "drawn after adaptation", 2),
        ("spire", "the nearest client's draws", 2),
        ("fedavg_ft", "drawn after adaptation", 2),
        ("fedavg_ft", "the nearest client's images", 2),
        ("", "copies of the training images", 2),
        ("", "fresh images", 2),
    ]
    kids = [row["KID"].mean for row in rows]
    assert kids == pytest.approx([1.0, 0.9, 0.9, 0.9, 0.6, 0.0])
    gaps = [row["FLD gap"].mean for row in rows]
    assert gaps == pytest.approx([-100, -90, -90, -90, -60, 0])
    assert rows[0]["precision"].mean == pytest.approx(0.9)
    assert not {"TV", "recall"} & set(rows[0])  # no run has them
    assert (rows[1]["NN p"], rows[5]["NN p"].mean) == (None, pytest.approx(0.5))
    assert rows[0]["NN p"].mean == pytest.approx(0.01000, abs=1e-4)  # 1 - Phi(sqrt(2) 1.6449)


def test_clients_that_set_images_aside_have_controls_of_their_own() -> None:
    """Copies are of the images that they fit, and chance is another."""
    choosing = {"adapt.guidance": "(1.0, 2.0)"}
    runs = [
        replace(one, params=one.params | (choosing if "spire" in one.run_id else {}))
        for one in RUNS
    ]
    table = controls_table(group_runs(runs), ROWS)
    assert table is not None
    at = [table.columns.index(name) for name in ("method", "images")]
    shared = [row[at[1]] for row in table.rows if row[at[0]] == ""]
    aside = "copies of the training images, some set aside", "fresh images, some set aside"
    assert sorted(shared) == sorted(["copies of the training images", "fresh images", *aside])


def test_a_method_that_fits_nothing_sets_nothing_aside() -> None:
    """`fedavg` scores copies of all training images beside methods that choose an epoch."""
    stopping = {"adapt.early_stopping": "True"}
    groups = group_runs([replace(one, params=one.params | stopping) for one in RUNS])
    fedavg = replace(groups[0], method="fedavg")
    assert [sets_aside(group) for group in (*groups, fedavg)] == [True, True, False]


def test_runs_without_controls_are_in_no_row() -> None:
    assert controls_table(group_runs(RUNS), {}) is None
    rows = rows_of({"spire-0": ROWS["spire-0"]})
    assert [(row["method"], row["n"]) for row in rows] == [("spire", 1)] * 2 + [("", 1)] * 2


def test_shared_controls_are_of_the_method_with_the_most_runs_that_have_them() -> None:
    rows = rows_of({key: ROWS[key] for key in ("spire-0", "fedavg_ft-0", "fedavg_ft-1")})
    assert [row["n"] for row in rows if row["method"] == ""] == [2, 2]


def test_the_p_value_of_a_method_is_that_of_all_its_seeds() -> None:
    spire, *_ = group_runs(RUNS)
    found = spire.estimate("final/adapt_nn_p")
    assert isinstance(found, Estimate)
    assert (found.mean, found.half_width) == (pytest.approx(0.01000, abs=1e-4), None)


def test_a_score_that_is_no_number_is_in_no_mean() -> None:
    odd = {**ROWS, "spire-0": [row("copies", math.nan, math.nan, 0.5)]}
    [copies] = [row for row in rows_of(odd) if row["images"] == "copies of the training images"]
    assert (copies["KID"].mean, copies["KID"].num, copies["KID"].missing) == (1.1, 1, 1)
    assert (copies["NN p"].num, copies["NN p"].missing) == (1, 1)


def test_facts_name_the_guidance_of_all_and_the_scales_of_new_clients() -> None:
    plain, choosing = (
        replace(run("spire", seed), params={"method.name": "spire", "eval.guidance": "1.0", **more})
        for seed, more in enumerate(({}, {"adapt.guidance": "(1.0, 2.0)"}))
    )
    assert facts_of([plain], [plain])["Sampling"].endswith("guidance 1.0")
    told = facts_of([plain, choosing], [plain, choosing])["Sampling"]
    assert told.endswith("guidance 1.0, of new clients their own, out of (1.0, 2.0)")


@pytest.mark.parametrize(
    ("partition", "num_clients", "is_part"),
    [("independent", "1000", True), ("independent", "100", False), ("iid", "1000", False)],
)
def test_facts_say_of_which_clients_coverage_is(
    partition: str, num_clients: str, is_part: bool
) -> None:
    params = {"partition.name": partition, "federation.num_clients": num_clients}
    tags = {"world.hull_tv": "0.1", "world.nearest_tv": "0.2"}
    one = replace(run("spire", 0), params={"method.name": "spire", **params}, tags=tags)
    told = facts_of([one], [one])["Coverage"]
    assert told.endswith("distances to all are at most these") == is_part
