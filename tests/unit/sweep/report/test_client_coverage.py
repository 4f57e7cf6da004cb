"""A mixed model against its likelihood written out; coverage among the clients of one world."""

import math

import numpy as np
import pytest
from scipy.stats import binom

from pipeline.tracking.mlflow_queries import TrackedRun
from sweeps.report.client_coverage import client_coverage_answers, client_coverage_table
from sweeps.report.client_dots import ClientRows
from sweeps.report.groups import best_groups, group_runs
from sweeps.report.regression import Point, fitted_line, mixed_line
from sweeps.report.stats import Estimate

KID = "final/adapt_kid_after"
METHODS = ("spire", "fedavg_ft")


def drawn(rng: np.random.Generator, slope: float, shared: float, strata: int = 1) -> list[Point]:
    """Six clients of each of eight seeds: errors of 0.2, and 0.2 * `shared` for all of a seed."""
    return [
        Point(x, stratum + slope * x + own + 0.2 * float(rng.normal()), seed, stratum)
        for stratum in range(strata)
        for seed in range(8)
        for own in [0.2 * shared * float(rng.normal())]
        for x in rng.uniform(0, 0.5, 6)
    ]


def restricted_deviance(points: list[Point], common: float) -> tuple[float, np.ndarray]:
    """Return -2 log of the restricted likelihood by dense matrices, and the coefficients."""
    strata = sorted({p.stratum for p in points})
    x = np.array([[*(float(p.stratum == s) for s in strata), p.x] for p in points])
    y = np.array([p.y for p in points])
    same = [[(a.cluster, a.stratum) == (b.cluster, b.stratum) for b in points] for a in points]
    v = (1 - common) * np.eye(len(points)) + common * np.array(same)
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
) -> tuple[list[TrackedRun], ClientRows]:
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
            run_id = f"{name}-{method}-{seed}"
            params = {"method.name": method, "seed": str(seed), "federation.num_clients": name}
            tags = {"partition_hash": f"{seed}-{name}"}
            kid = sum(row["kid_after"] for row in rows) / len(rows)
            runs.append(TrackedRun(run_id, "", "FINISHED", params, tags, {KID: kid}, 0))
            clients[run_id] = rows
    return runs, clients


def test_the_slope_among_clients_of_each_world_and_within_both() -> None:
    """SPIRE leads by 1.25 where a client is covered, and the ratio falls by exp(-0.1) each 0.1."""
    one, of_one = world("24", (0.0, 0.0, 0.4, 0.5), 1.25, -1.0)
    other, of_other = world("96", (0.0, 0.1, 0.2), 0.8, -1.0)
    table = client_coverage_table(best_groups(group_runs(one + other), KID), {**of_one, **of_other})
    assert table is not None
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["task"] for row in rows] == ["num_clients=24", "num_clients=96", "within all tasks"]
    assert [row["clients"] for row in rows] == [12, 9, 21]
    for row in rows:
        slope = row["slope"]
        assert isinstance(slope, Estimate)
        assert slope.mean == pytest.approx(-0.1, abs=0.001)
        assert slope.num == row["seeds"] == 3
    starts = [row["log ratio at hull TV 0"] for row in rows]
    assert isinstance(starts[0], Estimate)
    assert math.exp(starts[0].mean) == pytest.approx(1.25, abs=0.001)
    assert starts[2] is None  # two worlds have two
    assert [row["ratio at the least"] for row in rows] == ["1.25", "0.8", None]
    [answer] = client_coverage_answers(table)
    assert answer.startswith(
        "Coverage of single new clients within all tasks: the ratio of fedavg_ft's KID to spire's "
        "goes by a factor of 0.905 [0.9"
    )
    assert answer.endswith(" 21 clients on 3 seeds).")


def test_clients_without_a_logarithm_leave_their_world_out() -> None:
    one, of_one = world("24", (0.0, 0.0, 0.4, 0.5), 1.25, -1.0)
    other, of_other = world("96", (0.0, 0.1, 0.2), 0.8, -1.0)
    of_other["96-spire-1"][0]["kid_after"] = -0.001
    table = client_coverage_table(best_groups(group_runs(one + other), KID), {**of_one, **of_other})
    assert table is not None
    assert [row[:2] for row in table.rows] == [("num_clients=24", "fedavg_ft")]


def test_without_coverage_or_without_spire_there_is_no_table() -> None:
    runs, clients = world("24", (0.0, 0.0, 0.4, 0.5), 1.25, -1.0)
    same, of_same = world("24", (0.3, 0.3, 0.3), 1.25, -1.0)
    unknown = {
        run_id: [row | {"hull_tv": None} for row in rows] for run_id, rows in clients.items()
    }
    others = [run for run in runs if run.params["method.name"] != "spire"]
    for told, rows in ((same, of_same), (runs, unknown), (runs, {}), (others, clients)):
        table = client_coverage_table(best_groups(group_runs(told), KID), rows)
        assert table is None
        assert client_coverage_answers(table) == []
