"""A mixed model against its likelihood written out; coverage among the clients of one world."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import stdtr, stdtrit
from scipy.stats import binom

from pipeline.tracking.mlflow_queries import TrackedRun
from sweeps.report.choice import best_groups
from sweeps.report.client_coverage import (
    ClientLine,
    client_coverage_answers,
    client_coverage_table,
    client_lines,
)
from sweeps.report.client_dots import ClientRows
from sweeps.report.coverage_dots import coverage_pictures
from sweeps.report.groups import group_runs
from sweeps.report.regression import Point, fitted_line, mixed_line
from sweeps.report.stats import Estimate

KID = "final/adapt_kid_after"
METHODS = ("spire", "fedavg_ft")


def drawn(rng: np.random.Generator, slope: float, shared: float, strata: int = 1) -> list[Point]:
    """Three to nine clients of each of eight seeds, with errors of 0.2.

    All of a seed and stratum share one of 0.2 * `shared`.
    """
    return [
        Point(x, stratum + slope * x + own + 0.2 * float(rng.normal()), seed, stratum)
        for stratum in range(strata)
        for seed in range(8)
        for own in [0.2 * shared * float(rng.normal())]
        for x in rng.uniform(0, 0.5, 3 + (seed + 3 * stratum) % 7)
    ]


def matrices(points: list[Point], common: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return design, values and the covariance of the errors, all of them dense."""
    strata = sorted({p.stratum for p in points})
    x = np.array([[*(float(p.stratum == s) for s in strata), p.x] for p in points])
    y = np.array([p.y for p in points])
    same = [[(a.cluster, a.stratum) == (b.cluster, b.stratum) for b in points] for a in points]
    return x, y, (1 - common) * np.eye(len(points)) + common * np.array(same)


def restricted_deviance(points: list[Point], common: float) -> tuple[float, np.ndarray]:
    """Return -2 log of the restricted likelihood by dense matrices, and the coefficients."""
    x, y, v = matrices(points, common)
    precision = np.linalg.inv(v)
    beta = np.linalg.solve(x.T @ precision @ x, x.T @ precision @ y)
    left = y - x @ beta
    freedom = len(points) - x.shape[1]
    logs = np.linalg.slogdet(v)[1] + np.linalg.slogdet(x.T @ precision @ x)[1]
    return logs + freedom * math.log(left @ precision @ left), beta


@pytest.mark.parametrize(("shared", "strata"), [(0.0, 1), (1.0, 1), (3.0, 1), (1.0, 2)])
def test_a_mixed_model_is_the_most_likely_one(shared: float, strata: int) -> None:
    points = drawn(np.random.default_rng(2), -1.5, shared, strata)
    line = mixed_line(points)
    assert line is not None
    grid = np.linspace(0, 0.99, 100)
    best = min(grid, key=lambda common: restricted_deviance(points, common)[0])
    assert line.common == pytest.approx(best, abs=0.01)
    *starts, slope = restricted_deviance(points, line.common)[1]
    assert line.slope.mean == pytest.approx(slope)
    assert (line.intercept is None) == (strata > 1)
    if line.intercept is not None:
        assert line.intercept.mean == pytest.approx(starts[0])


@pytest.mark.parametrize("strata", [1, 2])
def test_the_interval_of_a_mixed_model_is_that_of_clusters_of_whitened_points(strata: int) -> None:
    """CR2 and its degrees of freedom, written out with the symmetric root of dense matrices."""
    points = drawn(np.random.default_rng(7), -1.5, 2.0, strata)
    line = mixed_line(points)
    assert line is not None
    assert line.slope.half_width is not None
    assert line.common > 0.2
    x, y, v = matrices(points, line.common)
    root = symmetric_power(v, -0.5)
    x, y = root @ x, root @ y
    inverse = np.linalg.inv(x.T @ x)
    left = np.eye(len(points)) - x @ inverse @ x.T
    seeds = np.array([p.cluster for p in points])
    vectors = []
    for seed in range(8):
        own = seeds == seed
        weights = np.zeros(len(points))
        weights[own] = symmetric_power(left[np.ix_(own, own)], -0.5) @ (x @ inverse)[own, -1]
        vectors.append(left @ weights)
    errors = np.array(vectors) @ y  # `left` takes the line from y
    products = np.array(vectors) @ np.array(vectors).T
    freedom = np.trace(products) ** 2 / np.sum(products**2)
    assert line.freedom == pytest.approx(freedom)
    half = stdtrit(freedom, 0.975) * np.linalg.norm(errors)
    assert line.slope.half_width == pytest.approx(half)
    tail = 2 * stdtr(freedom, -abs(line.slope.mean) / np.linalg.norm(errors))
    assert line.slope_p == pytest.approx(tail)


def symmetric_power(matrix: np.ndarray, power: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return vectors * values**power @ vectors.T


def test_one_client_of_each_seed_shares_nothing_with_others() -> None:
    rng = np.random.default_rng(8)
    line = mixed_line([Point(float(rng.uniform()), float(rng.normal()), i) for i in range(9)])
    assert line is not None
    assert line.common == 0


def test_a_world_with_one_seed_does_not_hide_the_slope_within_the_others() -> None:
    points = drawn(np.random.default_rng(9), -1.5, 0.5, 2)
    without = mixed_line(points)
    line = mixed_line([*points, Point(0.1, 9.0, 0, 2), Point(0.2, 9.0, 0, 2)])
    assert line is not None
    assert without is not None
    assert line.slope.mean == pytest.approx(without.slope.mean, abs=0.1)


def test_an_interval_of_a_mixed_model_holds_the_slope() -> None:
    rng = np.random.default_rng(4)
    inside = 0
    for _ in range(200):
        line = mixed_line(drawn(rng, -1.5, 1.0))
        assert line is not None
        assert line.slope.half_width is not None
        inside += abs(line.slope.mean + 1.5) <= line.slope.half_width
    assert binom.cdf(inside, 200, 0.95) > 0.01


def test_what_a_seed_shares_makes_the_slope_of_the_mixed_model_the_surer_one() -> None:
    rng = np.random.default_rng(5)
    errors: dict[str, list[float]] = {"line": [], "mixed": []}
    for _ in range(100):
        points = drawn(rng, -1.5, 3.0)
        lines = {"line": fitted_line(points), "mixed": mixed_line(points)}
        for name, line in lines.items():
            assert line is not None
            errors[name].append((line.slope.mean + 1.5) ** 2)
    assert np.mean(errors["mixed"]) < 0.5 * np.mean(errors["line"])


def test_levels_of_worlds_are_no_slope_within_them() -> None:
    """Two worlds, one at 0 to 0.1 and one at 0.4 to 0.5 and lower: nothing happens in either."""
    rng = np.random.default_rng(6)
    points = [
        Point(0.4 * world + x, -world + 0.01 * float(rng.normal()), seed, world)
        for world in (0, 1)
        for seed in range(4)
        for x in (0.0, 0.05, 0.1)
    ]
    across = fitted_line([Point(p.x, p.y, p.cluster) for p in points])
    within = mixed_line(points)
    assert across is not None
    assert within is not None
    assert across.slope.mean == pytest.approx(-2.4, abs=0.2)
    assert abs(within.slope.mean) < 0.2
    assert within.slope_p > 0.05


# --- tables ---------------------------------------------------------------------------------------


def world(
    name: str, hulls: tuple[float, ...], ratio: float, slope: float
) -> tuple[list[TrackedRun], dict[str, list[dict[str, Any]]]]:
    """Three seeds; SPIRE's KID differs from client to client, and the other's by the line."""
    runs, clients = [], {}
    for seed in range(3):
        for method in METHODS:
            rows = []
            for client, hull in enumerate(hulls):
                kid = 0.3 + 0.1 * client + 0.01 * seed
                off = 0.001 * (seed - 1) * (client - 1)
                lead = ratio * math.exp(slope * hull + off) if method != "spire" else 1.0
                rows.append({"client_id": client, "hull_tv": hull, "kid_after": kid * lead})
                rows[-1]["steps"] = 96
            run_id = f"{name}-{method}-{seed}"
            params = {"method.name": method, "seed": str(seed), "federation.num_clients": name}
            tags = {"partition_hash": f"{seed}-{name}"}
            kid = sum(row["kid_after"] for row in rows) / len(rows)
            runs.append(TrackedRun(run_id, "", "FINISHED", params, tags, {KID: kid}, 0))
            clients[run_id] = rows
    return runs, clients


def lines_of(runs: list[TrackedRun], clients: ClientRows) -> list[ClientLine]:
    return client_lines(best_groups(group_runs(runs), KID), clients)


def test_the_slope_among_clients_of_each_world_and_within_both() -> None:
    """SPIRE leads by 1.25 where a client is covered, and the ratio falls by exp(-0.1) each 0.1."""
    one, of_one = world("24", (0.0, 0.0, 0.4, 0.5), 1.25, -1.0)
    other, of_other = world("96", (0.0, 0.1, 0.2), 0.8, -1.0)
    clients = {**of_one, **of_other}
    clients["24-spire-1"] = clients["24-spire-1"][::-1]  # clients are found by their ids
    lines = lines_of(one + other, clients)
    table = client_coverage_table(lines)
    assert table is not None
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["task"] for row in rows] == ["num_clients=24", "num_clients=96", "within 2 tasks"]
    assert [row["pairs"] for row in rows] == [12, 9, 21]
    for row, line in zip(rows, lines, strict=True):
        slope = row["slope"]
        assert isinstance(slope, Estimate)
        assert slope.mean == pytest.approx(-0.1, abs=0.001)
        assert slope.num == row["seeds"] == 3
        again = mixed_line(line.points)
        assert again is not None
        assert (row["p"], row["shared by a seed"]) == (again.slope_p, round(again.common, 3))
    assert [row["ratio at the least"] for row in rows] == ["1.25", "0.8", None]
    first, second = client_coverage_answers(lines)
    assert first.startswith(
        "num_clients=24: Coverage of single new clients: the ratio of fedavg_ft's KID to spire's "
        "goes by a factor of 0.905 [0.9"
    )
    assert first.endswith(" 12 clients on 3 seeds).")
    assert second.startswith("num_clients=96: ")


@pytest.mark.parametrize(
    "spoilt",
    [{"kid_after": -0.001}, {"kid_after": None}, {"hull_tv": None}, {"steps": 6}, {"client_id": 9}],
)
def test_clients_that_cannot_be_compared_leave_their_world_out(spoilt: dict[str, Any]) -> None:
    one, of_one = world("24", (0.0, 0.0, 0.4, 0.5), 1.25, -1.0)
    other, of_other = world("96", (0.0, 0.1, 0.2), 0.8, -1.0)
    of_other["96-fedavg_ft-1"][0].update(spoilt)
    [line] = lines_of(one + other, {**of_one, **of_other})
    assert line.task == "num_clients=24"


def test_clients_whose_steps_nobody_knows_are_not_compared() -> None:
    """Private fits, whose rows have no steps, may have taken different numbers of them."""
    one, of_one = world("24", (0.0, 0.0, 0.4, 0.5), 1.25, -1.0)
    for row in (row for rows in of_one.values() for row in rows):
        row["steps"] = None
    assert lines_of(one, of_one) == []


def test_without_coverage_or_without_spire_there_is_no_table() -> None:
    runs, clients = world("24", (0.0, 0.0, 0.4, 0.5), 1.25, -1.0)
    same, of_same = world("24", (0.3, 0.3, 0.3), 1.25, -1.0)
    others = [run for run in runs if run.params["method.name"] != "spire"]
    texts = [replace(run, params=run.params | {"model.text": "words"}) for run in runs]
    for told, rows in ((same, of_same), (runs, {}), (others, clients), (texts, clients)):
        lines = lines_of(told, rows)
        assert client_coverage_table(lines) is None
        assert client_coverage_answers(lines) == []


def test_each_world_whose_clients_differ_in_coverage_has_a_figure() -> None:
    one, of_one = world("24", (0.0, 0.0, 0.4, 0.5), 1.25, -1.0)
    other, of_other = world("96", (0.1, 0.1, 0.1), 0.8, -1.0)
    found = coverage_pictures(lines_of(one, of_one))
    assert [picture.name for picture in found] == ["client_coverage"]
    [axes] = found[0].figure.axes
    assert len(axes.collections[0].get_offsets()) == 12
    x, y = axes.lines[1].get_data()  # the first one is at a ratio of 1
    assert [*map(float, x)] == [0.0, 0.5]
    assert np.exp(y) == pytest.approx([1.25, 1.25 * math.exp(-0.5)], abs=0.01)
    both = coverage_pictures(lines_of(one + other, {**of_one, **of_other}))
    assert [picture.title for picture in both] == ["Lead and coverage, client by client"]
