"""Lines with cluster-robust intervals by hand; a lead over SPIRE that follows coverage."""

import math

import numpy as np
import pytest

from pipeline.tracking.mlflow_queries import TrackedRun
from sweeps.report.coverage import coverage_answers, coverage_table
from sweeps.report.groups import best_groups, group_runs
from sweeps.report.regression import Point, fitted_line
from sweeps.report.stats import Estimate

KID = "final/adapt_kid_after"
T1, T7 = 12.7062047, 2.3646243  # 97.5 % quantiles of Student's t


def test_a_line_by_hand() -> None:
    """Two seeds at 0 and 1: 1, 3 and 3, 1. Residuals -1, 1 and 1, -1 cancel in each seed's sum, and
    leave 1 and -1 for the slope: (X'X)^-1 is [[1, -1], [-1, 2]] / 2, the correction 2 x 3 / 2.
    """
    line = fitted_line([Point(0, 1, 7), Point(1, 3, 7), Point(0, 3, 9), Point(1, 1, 9)])
    assert line is not None
    assert (line.intercept.mean, line.slope.mean) == pytest.approx((2, 0))
    assert line.intercept.half_width == pytest.approx(T1 * math.sqrt(1.5), rel=1e-6)
    assert line.slope.half_width == pytest.approx(T1 * math.sqrt(6), rel=1e-6)
    assert line.slope_p == pytest.approx(1)


def test_with_a_seed_for_each_point_errors_are_those_of_each_point() -> None:
    """White's estimate (HC1) by numpy, here with x = 0 to 7."""
    rng = np.random.default_rng(3)
    x, noise = np.arange(8.0), rng.normal(size=8)
    line = fitted_line(
        [Point(a, 1 + 2 * a + b, i) for i, (a, b) in enumerate(zip(x, noise, strict=True))]
    )
    assert line is not None
    slope, intercept = np.polyfit(x, 1 + 2 * x + noise, 1)
    left, centred = 1 + 2 * x + noise - slope * x - intercept, x - x.mean()
    variance = 8 / 6 * np.sum(centred**2 * left**2) / np.sum(centred**2) ** 2
    assert (line.slope.mean, line.intercept.mean) == pytest.approx((slope, intercept))
    assert line.slope.half_width == pytest.approx(T7 * math.sqrt(variance), rel=1e-6)
    assert line.slope_p < 0.01


def test_an_interval_holds_what_seeds_have_in_common() -> None:
    """200 times eight seeds in four worlds, with a seed's own slope: 95 % hold the true one."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        own = rng.normal(-3, 1, 8)
        points = [
            Point(hull, float(own[seed] * hull + rng.normal(0, 0.05)), seed)
            for seed in range(8)
            for hull in (0.0, 0.05, 0.06, 0.29)
        ]
        line = fitted_line(points)
        assert line is not None
        assert line.slope.half_width is not None
        inside += abs(line.slope.mean + 3) <= line.slope.half_width
    assert 178 <= inside <= 198


@pytest.mark.parametrize(
    "points",
    [
        [Point(0, 1, 0), Point(1, 2, 1)],
        [Point(0, 1, 0), Point(1, 2, 0), Point(2, 2, 0)],
        [Point(1, 1, 0), Point(1, 2, 1), Point(1, 2, 2)],
        [],
    ],
)
def test_too_few_points_have_no_line(points: list[Point]) -> None:
    assert fitted_line(points) is None


def runs(worlds: dict[float, float], methods: tuple[str, ...], seeds: int = 3) -> list[TrackedRun]:
    """SPIRE has KID 0.5 everywhere, others the ratio of their world, a little off by seed."""
    found = []
    for hull, ratio in worlds.items():
        for seed in range(seeds):
            for method in methods:
                kid = 0.5 if method == "spire" else 0.5 * ratio * math.exp((seed - 1) / 100)
                params = {"method.name": method, "seed": str(seed)}
                params |= {"federation.num_clients": str(round(1000 * hull))}
                tags = {"partition_hash": f"{seed}-{hull}", "world.hull_tv": str(hull)}
                name = f"{method}-{seed}-{hull}"
                found.append(TrackedRun(name, "", "FINISHED", params, tags, {KID: kid}, 0))
    return found


def test_a_lead_that_follows_coverage_is_found() -> None:
    """From 1.25 where new clients are covered to 0.8 at 0.2: a factor of 0.8 for each 0.1."""
    told = runs({0.0: 1.25, 0.1: 1.0, 0.2: 0.8}, ("spire", "fedavg_ft"))
    chosen = best_groups(group_runs(told), KID)
    table = coverage_table(chosen)
    assert table is not None
    [row] = [dict(zip(table.columns, cells, strict=True)) for cells in table.rows]
    assert (row["method"], row["pairs"], row["seeds"]) == ("fedavg_ft", 9, 3)
    slope, start = row["slope"], row["log ratio at hull TV 0"]
    assert isinstance(slope, Estimate)
    assert isinstance(start, Estimate)
    assert slope.mean == pytest.approx(math.log(0.8))
    assert slope.half_width == pytest.approx(0, abs=1e-6)  # seeds differ by their level alone
    assert start.mean == pytest.approx(math.log(1.25))
    # Seeds are off by -0.01, 0 and 0.01 in each of their 3 pairs; the correction is 12 / 7.
    assert start.half_width == pytest.approx(
        4.3026527 * math.sqrt(12 / 7 * 2 * 0.01**2 / 9), rel=1e-4
    )
    assert (row["ratio at the least"], row["at the greatest"]) == ("1.25", "0.8")
    assert row["equal at hull TV"] == "0.1"
    [answer] = coverage_answers(coverage_table(chosen))
    assert answer.startswith(
        "Coverage: from hull TV 0 to 0.2, the ratio of fedavg_ft's KID to spire's goes from 1.25 "
        "to 0.8, by a factor of 0.8 [0.8, 0.8] for each 0.1 (p "
    )


def test_one_world_or_one_method_has_no_slope() -> None:
    for told in (
        runs({0.1: 1.2}, ("spire", "fedavg_ft")),
        runs({0.0: 1.2, 0.2: 1.0}, ("spire",)),
        runs({0.0: 1.2, 0.2: 1.0}, ("fedavg_ft", "local")),
        runs({0.0: 1.2, 0.2: 1.0}, ("spire", "fedavg_ft"), seeds=1),
    ):
        chosen = best_groups(group_runs(told), KID)
        assert coverage_table(chosen) is None
        assert coverage_answers(coverage_table(chosen)) == []
