"""Planes of two settings: differences by hand, who is compared with whom, and what is drawn."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.tracking.mlflow_queries import TrackedRun
from sweeps.report.groups import Group, group_runs
from sweeps.report.heat_maps import Grid, grids_figure
from sweeps.report.planes import differences, plane_picture, plane_table

KID = "final/adapt_kid_after"


def run(method: str, seed: int, kid: float, **params: object) -> TrackedRun:
    told = {key.replace("__", "."): str(value) for key, value in params.items()}
    told |= {"method.name": method, "seed": str(seed)}
    name = "-".join([method, str(seed), *told.values()])
    tags = {"partition_hash": f"p{seed}{told.get('federation.num_clients')}"}
    return TrackedRun(name, name, "FINISHED", told, tags, {KID: kid}, 0)


@pytest.fixture(scope="module")
def groups() -> list[Group]:
    """FT is ahead with few clients and rounds, SPIRE with many; FT has two rates."""
    found = []
    for clients in (8, 24):
        for rounds in (100, 200):
            at = {"federation__num_clients": clients, "federation__num_rounds": rounds}
            for seed in (0, 1, 2):
                ours = 1.0 + 0.01 * seed
                ahead = (0.3 if clients * rounds > 2000 else -0.2) + 0.01 * (seed - 1)
                found.append(run("spire", seed, ours, **at))
                for rate, loss in ((0.001, 0.0), (0.01, 0.5)):
                    found.append(run("fedavg_ft", seed, ours + ahead + loss, adapt__lr=rate, **at))
    return group_runs(found)


def test_differences_are_paired_at_each_place_with_the_best_rate(groups: list[Group]) -> None:
    keys, told = differences(groups, KID)
    assert keys == ["federation.num_clients", "federation.num_rounds"]
    assert list(told) == ["fedavg_ft"]
    means = {place: found.mean for place, found in told["fedavg_ft"].items()}
    assert means == pytest.approx({(8, 100): -0.2, (8, 200): -0.2, (24, 100): 0.3, (24, 200): 0.3})
    table = plane_table(groups, KID)
    assert table is not None
    assert [row[-1] for row in table.rows] == ["lower", "lower", "higher", "higher"]


def test_the_plane_shows_every_place_and_marks_what_is_sure(
    groups: list[Group], tmp_path: Path
) -> None:
    picture = plane_picture(groups, KID)
    assert picture is not None
    axes = picture.figure.axes[0]
    told = ["-0.2*\n± 0.025", "-0.2*\n± 0.025", "+0.3*\n± 0.025", "+0.3*\n± 0.025"]
    assert [t.get_text() for t in axes.texts] == told
    assert (axes.get_xlabel(), axes.get_ylabel()) == (
        "federation.num_rounds",
        "federation.num_clients",
    )
    picture.figure.savefig(tmp_path / "plane.png")


def test_there_is_no_plane_of_one_or_three_settings_or_without_spire(groups: list[Group]) -> None:
    one = group_runs(
        [r for g in groups for r in g.runs if r.params["federation.num_rounds"] == "100"]
    )
    without = [group for group in groups if group.method != "spire"]
    third = [
        TrackedRun(**vars(r) | {"params": {**r.params, "model.width": str(width)}})
        for group in groups
        for r in group.runs
        for width in (8, 16)
    ]
    other = [
        TrackedRun(**vars(r) | {"params": {**r.params, "data.name": name}})
        for group in groups
        for r in group.runs
        for name in ("mnist", "fashion_mnist")
    ]
    for several in (one, without, group_runs(third), group_runs(other)):
        assert plane_table(several, KID) is None
        assert plane_picture(several, KID) is None


def test_cells_without_a_value_stay_empty(tmp_path: Path) -> None:
    values = np.array([[1.0, np.nan], [-2.0, 0.0]])
    grid = Grid("a", ("x", "y"), ("1", "2"), values, (("1", ""), ("-2", "0")))
    figure = grids_figure([grid, grid], "n", ["m", ""], "difference", is_signed=True)
    assert [t.get_text() for t in figure.axes[0].texts] == ["1", "-2", "0"]
    figure.savefig(tmp_path / "grid.png")
