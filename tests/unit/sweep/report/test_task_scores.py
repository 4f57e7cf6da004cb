"""Tasks of one report that have other scores: each chooses and is compared by one of its own."""

from collections.abc import Callable, Sequence

import pytest

from pipeline.tracking.mlflow_queries import TrackedRun
from sweeps.primary import HELDOUT
from sweeps.report.choice import choosing_metric
from sweeps.report.differences import (
    differences_table,
    same_setting_difference,
    setting_differences_table,
    within_methods_table,
)
from sweeps.report.figures import Picture, draw_all
from sweeps.report.groups import Group, group_runs, label
from sweeps.report.tables import Cell, Table, cell_text

KID, STYLE = "final/adapt_kid_after", "final/adapt_style_distance_after"
TRAINED = "params/trainable_new_client"
SEEDS = (0, 1, 2)


def run(method: str, seed: int, finals: dict[str, float], **params: object) -> TrackedRun:
    told = {key.replace("__", "."): str(value) for key, value in params.items()}
    name = f"{method}-{seed}-{told}"
    told |= {"method.name": method, "seed": str(seed)}
    tags = {"partition_hash": f"p{seed}"}
    return TrackedRun(name, name, "FINISHED", told, tags, finals, 0)


def grid(data: str, score: str, kids: dict[str, tuple[float, float]]) -> list[TrackedRun]:
    """Runs of methods at two rates, whose scores are given, and after two lengths of a fit."""
    return [
        run(
            method,
            seed,
            {score: kid + 0.1 * (epochs == 8) + 0.01 * seed, TRAINED: 16.0},
            data__name=data,
            adapt__lr=rate,
            adapt__epochs=epochs,
        )
        for method, of_rates in kids.items()
        for rate, kid in zip((0.1, 0.2), of_rates, strict=True)
        for epochs in (4, 8)
        for seed in SEEDS
    ]


DIGITS = grid("mnist", KID, {"spire": (2.0, 1.0), "fedavg_ft": (1.2, 2.4)})
FONTS = [
    run(method, seed, {STYLE: 0.1}, data__name="fonts")
    for method in ("spire", "fedavg_ft")
    for seed in SEEDS
]
TABLES = (differences_table, setting_differences_table, within_methods_table)


def rows_of(table: Table | None, task: str) -> list[dict[str, Cell]]:
    """Return a task's rows, all rows where no column names tasks, without what is blank."""
    assert table is not None
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    own = [row for row in rows if row.pop("task", task) == task]
    return [{key: cell for key, cell in row.items() if cell is not None} for row in own]


@pytest.mark.parametrize("made", TABLES)
@pytest.mark.parametrize("score", [KID, HELDOUT])
def test_a_task_beside_another_has_the_rows_that_it_has_alone(
    made: Callable[[Sequence[Group], str], Table | None], score: str
) -> None:
    """Also without features, where the loss is the score."""
    digits = grid("mnist", score, {"spire": (2.0, 1.0), "fedavg_ft": (1.2, 2.4)})
    alone, both = group_runs(digits), group_runs([*digits, *FONTS])
    assert (choosing_metric(alone), choosing_metric(both)) == (score, STYLE)
    found = rows_of(made(both, STYLE), "data.name=mnist")
    assert found == rows_of(made(alone, score), "data.name=mnist")
    assert found


def test_at_the_same_settings_each_stands_at_its_best_rate_in_every_task() -> None:
    here = [group for group in group_runs([*DIGITS, *FONTS]) if "mnist" in label(group.task)]
    found = same_setting_difference(here, "fedavg_ft", KID, STYLE)
    assert found is not None
    assert (found.mean, found.num) == (pytest.approx(1.2 - 1.0), 3)


def test_a_table_names_the_scores_of_all_its_tasks() -> None:
    fonts = grid("fonts", STYLE, {"spire": (0.2, 0.1), "fedavg_ft": (0.3, 0.2)})
    words = "new clients' final distance to the true images or, in tasks without it, new clients' "
    for made in (setting_differences_table, within_methods_table):
        both, one = (made(group_runs(runs), STYLE) for runs in ([*DIGITS, *fonts], DIGITS))
        assert both is not None
        assert one is not None
        assert f" on {words}final KID" in both.caption
        assert " on new clients' final KID" in one.caption


def lines_of(picture: Picture) -> list[list[list[float]]]:
    return [line.get_xydata().tolist() for axes in picture.figure.axes for line in axes.get_lines()]


def test_a_task_beside_another_has_the_figures_that_it_has_alone() -> None:
    alone = draw_all(group_runs(DIGITS), KID, {})
    both = draw_all(group_runs([*DIGITS, *FONTS]), STYLE, {})
    names = [f"kid_against_{name}" for name in ("adapt_lr", "adapt_epochs", "trained_parameters")]
    assert [picture.name for picture in alone] == names
    assert [picture.name for picture in both] == [f"{name}_2" for name in names]
    for one, other in zip(alone, both, strict=True):
        assert lines_of(one) == lines_of(other)
        assert other.figure.axes[0].get_ylabel() == "new clients' final KID, mean"


def test_losses_of_other_targets_are_other_tasks_where_a_loss_is_all_that_a_task_has() -> None:
    runs = [
        run("spire", 0, {score: 1.0}, data__name=data, diffusion__prediction=prediction)
        for data, score in (("mnist", HELDOUT), ("cifar10", KID))
        for prediction in ("eps", "v")
    ]
    assert [(label(group.task), label(group.setting)) for group in group_runs(runs)] == [
        ("data.name=cifar10", "diffusion.prediction=eps"),
        ("data.name=cifar10", "diffusion.prediction=v"),
        ("data.name=mnist, diffusion.prediction=eps", ""),
        ("data.name=mnist, diffusion.prediction=v", ""),
    ]


def test_a_method_stands_beside_spire_at_its_best_of_what_spire_does_not_read() -> None:
    """Where new clients' own layers start, which SPIRE has none of."""
    runs = [run("spire", seed, {KID: 1.0}, model__d_emb=16) for seed in SEEDS]
    runs += [run("spire", seed, {KID: 1.5}, model__d_emb=64) for seed in SEEDS]
    for start, kid in (("last", 2.0), ("mean", 3.0)):
        runs += [run("shared_rep", seed, {KID: kid}, adapt__local_init=start) for seed in SEEDS]
    groups = group_runs(runs)
    table = setting_differences_table(groups, KID)
    assert table is not None
    assert [(*row[:2], cell_text(row[2])) for row in table.rows] == [
        ("model.d_emb=16", "shared_rep", "1"),
        ("model.d_emb=64", "shared_rep", "0.5"),
    ]
    found = same_setting_difference(groups, "shared_rep", KID, KID)
    assert found is not None
    assert (found.mean, found.num) == (pytest.approx(0.75), 3)
