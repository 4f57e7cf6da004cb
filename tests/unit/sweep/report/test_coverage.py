"""Lines with cluster-robust intervals by hand; a lead over SPIRE that follows coverage."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import stdtrit

from pipeline.tracking.mlflow_queries import TrackedRun
from sweeps.report.choice import best_groups
from sweeps.report.coverage import coverage_answers, coverage_notes, coverage_table
from sweeps.report.groups import group_runs
from sweeps.report.regression import Point, fitted_line
from sweeps.report.stats import Estimate

KID = "final/adapt_kid_after"
T1 = 12.7062047  # the 97.5 % quantile of Student's t


def test_a_line_by_hand() -> None:
    """Two seeds at 0 and 1: 1, 3 and 3, 1. Residuals -1, 1 and 1, -1 cancel in each seed's sum, and
    leave 1 and -1 for the slope: (X'X)^-1 is [[1, -1], [-1, 2]] / 2. With the same x in both seeds
    the correction is 2 / (2 - 1), at one degree of freedom.
    """
    line = fitted_line([Point(0, 1, 7), Point(1, 3, 7), Point(0, 3, 9), Point(1, 1, 9)])
    assert line is not None
    assert (line.intercept.mean, line.slope.mean) == pytest.approx((2, 0))
    assert line.intercept.half_width == pytest.approx(T1 * math.sqrt(1), rel=1e-6)
    assert line.slope.half_width == pytest.approx(T1 * math.sqrt(4), rel=1e-6)
    assert line.slope_p == pytest.approx(1)
    assert (line.intercept.num, line.slope.num) == (2, 2)


def test_with_a_seed_for_each_point_errors_are_those_of_each_point() -> None:
    """HC2 by numpy, here with x = 0 to 7, and its degrees of freedom out of its two moments."""
    rng = np.random.default_rng(3)
    x, noise = np.arange(8.0), rng.normal(size=8)
    line = fitted_line(
        [Point(a, 1 + 2 * a + b, i) for i, (a, b) in enumerate(zip(x, noise, strict=True))]
    )
    assert line is not None
    slope, intercept = np.polyfit(x, 1 + 2 * x + noise, 1)
    left, centred = 1 + 2 * x + noise - slope * x - intercept, x - x.mean()
    share = centred**2 / np.sum(centred**2)
    leverage = 1 / 8 + share
    variance = np.sum(share * left**2 / (1 - leverage)) / np.sum(centred**2)
    hat = 1 / 8 + np.outer(centred, centred) / np.sum(centred**2)
    quadratic = (np.eye(8) - hat) @ np.diag(share / (1 - leverage)) @ (np.eye(8) - hat)
    freedom = np.trace(quadratic) ** 2 / np.trace(quadratic @ quadratic)
    assert 3 < freedom < 4
    assert (line.slope.mean, line.intercept.mean) == pytest.approx((slope, intercept))
    assert line.slope.half_width == pytest.approx(
        stdtrit(freedom, 0.975) * math.sqrt(variance), rel=1e-6
    )
    assert line.slope_p < 0.01


@pytest.mark.parametrize(("seeds", "pairs"), [(3, 1), (3, 10), (5, 10)])
def test_coverage_that_differs_between_seeds_alone_is_no_certainty(seeds: int, pairs: int) -> None:
    """Without any slope at most one test in twenty says that there is one."""
    rng, said = np.random.default_rng(1), 0
    for _ in range(200):
        hull, own = rng.uniform(0.1, 0.3, seeds), rng.normal(0, 0.1, seeds)
        line = fitted_line(
            [
                Point(float(hull[seed] + rng.normal(0, 1e-4)), float(own[seed] + noise), seed)
                for seed in range(seeds)
                for noise in rng.normal(0, 0.1, pairs)
            ]
        )
        said += line is not None and line.slope_p < 0.05
    assert said <= 20  # 10 are expected of an exact test, with a standard deviation of 3


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
        [Point(0, 1, 0), Point(0, 3, 0), Point(1, 2, 1)],  # the slope is all that seeds differ in
        [Point(0, 1, 0), Point(0, 3, 0), Point(1, 2, 1), Point(1, 2.5, 1)],
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


def with_text(one: TrackedRun) -> TrackedRun:
    return replace(one, params=one.params | {"model.text": "words"})


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
    # Seeds are off by -0.01, 0 and 0.01 in each of their 3 pairs; the correction is 3 / 2.
    assert start.half_width == pytest.approx(
        4.3026527 * math.sqrt(3 / 2 * 2 * 0.01**2 / 9), rel=1e-4
    )
    assert (row["ratio at the least"], row["at the greatest"]) == ("1.25", "0.8")
    assert row["equal at hull TV"] == "0.1"
    [answer] = coverage_answers(coverage_table(chosen), chosen)
    assert answer.startswith(
        "Coverage and what else 3 tasks differ in: from hull TV 0 to 0.2, the ratio of "
        "fedavg_ft's KID to spire's goes from 1.25 to 0.8, by a factor of 0.8 [0.8, 0.8] for each "
        "0.1 (p "
    )


def test_the_line_is_not_continued_to_a_coverage_that_no_world_has() -> None:
    for least, is_known in ((0.0, True), (0.1, False)):
        told = runs({least: 1.25, 0.2: 1.0, 0.3: 0.8}, ("spire", "fedavg_ft"))
        table = coverage_table(best_groups(group_runs(told), KID))
        assert table is not None
        assert ("log ratio at hull TV 0" in table.columns) == is_known
        assert "slope" in table.columns


def test_a_task_without_a_pair_is_not_among_those_that_differ() -> None:
    told = runs({0.0: 1.25, 0.1: 1.0, 0.2: 0.8}, ("spire", "fedavg_ft"))
    told += runs({0.3: 1.0}, ("spire",))
    chosen = best_groups(group_runs(told), KID)
    [answer] = coverage_answers(coverage_table(chosen), chosen)
    assert answer.startswith("Coverage and what else 3 tasks differ in: ")


def test_a_world_is_left_out_for_a_pair_without_a_ratio_alone_and_a_note_says_so() -> None:
    """A seed that SPIRE has not run is in no pair, whatever the other method scored there."""
    methods = ("spire", "fedavg_ft")
    told = runs({0.0: 1.25, 0.1: 1.0, 0.2: 0.8, 0.3: 0.7}, methods)
    [more] = [one for one in runs({0.2: 0.8}, methods, 4) if one.run_id == "fedavg_ft-3-0.2"]
    chosen = best_groups(group_runs([*told, replace(more, finals={KID: -0.001})]), KID)
    assert coverage_table(chosen) == coverage_table(best_groups(group_runs(told), KID))
    assert coverage_notes(chosen) == []
    below = [replace(r, finals={KID: 0.0}) if r.run_id == "spire-1-0.2" else r for r in told]
    chosen = best_groups(group_runs(below), KID)
    table = coverage_table(chosen)
    assert table is not None
    [row] = [dict(zip(table.columns, cells, strict=True)) for cells in table.rows]
    assert (row["pairs"], row["to"]) == (9, 0.3)
    assert coverage_notes(chosen) == [
        "Lead and coverage: fedavg_ft is compared without num_clients=200, where a KID is not "
        "above zero."
    ]
    one_world = [one for one in below if one.run_id.endswith("-0.2")]
    assert coverage_notes(best_groups(group_runs(one_world), KID)) == []


def test_one_world_or_one_method_has_no_slope() -> None:
    for told in (
        runs({0.1: 1.2}, ("spire", "fedavg_ft")),
        runs({0.0: 1.2, 0.2: 1.0}, ("spire",)),
        runs({0.0: 1.2, 0.2: 1.0}, ("fedavg_ft", "local")),
        runs({0.0: 1.2, 0.2: 1.0}, ("spire", "fedavg_ft"), seeds=1),
        [with_text(one) for one in runs({0.0: 1.2, 0.2: 1.0}, ("spire", "fedavg_ft"))],
    ):
        chosen = best_groups(group_runs(told), KID)
        assert coverage_table(chosen) is None
        assert coverage_answers(coverage_table(chosen), chosen) == []


def test_a_ratio_beyond_all_numbers_is_infinite() -> None:
    """One world whose hull TV differs between seeds in its last digit: nothing is known."""
    told = []
    for seed, ratio in enumerate((1.0, 2.0, 0.5)):
        for method, kid in (("spire", 0.5), ("fedavg_ft", 0.5 * ratio)):
            params = {"method.name": method, "seed": str(seed)}
            tags = {"partition_hash": str(seed), "world.hull_tv": f"{0.05 + seed / 10_000:.4f}"}
            told.append(TrackedRun(method, "", "FINISHED", params, tags, {KID: kid}, 0))
    chosen = best_groups(group_runs(told), KID)
    [answer] = coverage_answers(coverage_table(chosen), chosen)
    assert answer.startswith("Coverage: from hull TV 0.05 to 0.05, ")
    assert " [0, inf] for each 0.1 (p 0.67, 3 pairs on 3 seeds)" in answer
