"""Prompts of new clients in the report: rows of methods and controls, and scores along epochs."""

from dataclasses import replace

from pipeline.tracking.mlflow_queries import TrackedRun
from sweeps.report.choice import choosing_metric
from sweeps.report.differences import differences_table
from sweeps.report.groups import group_runs
from sweeps.report.prompts import prompt_epochs_table, prompts_table
from sweeps.report.stats import Estimate

READ = {"spire": (0.6, 0.7), "fedavg_ft": (0.5, 0.5)}
DISTANCE = {"spire": (0.11, 0.13), "fedavg_ft": (0.15, 0.14)}


def run(method: str, seed: int, with_text: bool = True) -> TrackedRun:
    told = {"method.name": method, "seed": str(seed)}
    finals = {"final/adapt_kid_after": 1.0 if method == "spire" else 0.5}
    if with_text:
        finals |= {
            "final/adapt_prompt_accuracy_before": 0.4,
            "final/adapt_prompt_accuracy_after": READ[method][seed],
            "final/adapt_style_distance_before": 0.3,
            "final/adapt_style_distance_after": DISTANCE[method][seed],
            "final/adapt_copied_copies": 1.0,
            "final/adapt_style_distance_mean_client": 0.2 + 0.02 * seed,
            "final/adapt_retrieved_nearest_client": 0.0,
            "final/adapt_true_accuracy": 0.8,
            "final/adapt_forgetting_prompts": 0.4 - READ[method][seed],
        }
    name = f"{method}-{seed}"
    return TrackedRun(name, name, "FINISHED", told, {"partition_hash": f"p{seed}"}, finals, 0)


RUNS = [run(method, seed) for method in READ for seed in (0, 1)]


def test_methods_and_controls_stand_in_one_table() -> None:
    table = prompts_table(group_runs(RUNS))
    assert table is not None
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [(row["method"], row["adaptation"]) for row in rows] == [
        ("spire", "before"),
        ("spire", "after"),
        ("fedavg_ft", "before"),
        ("fedavg_ft", "after"),
        ("copies", ""),
        ("mean client", ""),
        ("nearest client", ""),
    ]
    spire, copies, mean, nearest = rows[1], *rows[4:7]
    means = {key: cell.mean for key, cell in spire.items() if isinstance(cell, Estimate)}
    assert {key: round(value, 9) for key, value in means.items()} == {
        "prompts read": 0.65,
        "distance": 0.12,
        "true": 0.8,
        "forgotten": -0.25,
    }
    assert isinstance(copies["copied"], Estimate)
    assert isinstance(mean["distance"], Estimate)
    assert isinstance(nearest["retrieved"], Estimate)
    assert (round(mean["distance"].mean, 9), nearest["retrieved"].mean) == (0.21, 0.0)
    assert (mean["prompts read"], rows[0]["forgotten"]) == (None, None)


def test_a_control_that_no_run_has_scored_has_no_row() -> None:
    earlier = [
        replace(run, finals={k: v for k, v in run.finals.items() if not k.endswith("_copies")})
        for run in RUNS
    ]
    table = prompts_table(group_runs(earlier))
    assert table is not None
    method = table.columns.index("method")
    assert [row[method] for row in table.rows][4:] == ["mean client", "nearest client"]


def test_runs_without_text_have_no_such_table() -> None:
    groups = group_runs([run("spire", 0, with_text=False)])
    assert prompts_table(groups) is None
    assert prompt_epochs_table(groups, {"spire-0": {"adapt/kid/mean": [(0, 1.0)]}}) is None


def test_the_distance_to_the_true_images_chooses_and_is_compared() -> None:
    groups = group_runs(RUNS)
    metric = choosing_metric(groups)
    assert metric == "final/adapt_style_distance_after"
    table = differences_table(groups, metric)
    assert table is not None
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    found = {row["score"]: row["minus SPIRE"] for row in rows}
    read, distance = (
        found[f"new clients: {name}"] for name in ("prompts read", "distance to the true images")
    )
    assert isinstance(read, Estimate)
    assert isinstance(distance, Estimate)
    assert (round(read.mean, 9), round(distance.mean, 9)) == (-0.15, 0.025)


def test_scores_along_the_epochs_are_means_over_seeds() -> None:
    curve = {"text/prompt_accuracy": [(0, 0.4), (50, 0.6)], "forgetting/prompts": [(50, -0.2)]}
    other = {"text/prompt_accuracy": [(0, 0.2), (50, 0.8)]}
    table = prompt_epochs_table(group_runs(RUNS[:2]), {"spire-0": curve, "spire-1": other})
    assert table is not None
    assert table.columns == ("method", "epochs", "prompts read", "prompts forgotten")
    start, end = table.rows
    assert isinstance(start[2], Estimate)
    assert isinstance(end[2], Estimate)
    assert isinstance(end[3], Estimate)
    assert (start[1], round(start[2].mean, 9), start[3]) == ("0", 0.3, None)
    assert (end[1], round(end[2].mean, 9)) == ("50", 0.7)
    assert (end[3].mean, end[3].num, end[3].missing) == (-0.2, 1, 1)
