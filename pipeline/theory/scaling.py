"""Experiment A: the error of each estimator against n and against d, beside what theory says."""

import math
from collections.abc import Mapping
from statistics import fmean

import numpy as np
from torch import Tensor

from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import (
    NUM_ERRORS,
    Claim,
    Curve,
    Outcome,
    Panel,
    Score,
    over_replicates,
    slope,
)
from spire_core.config.checks import require
from spire_core.mixture import estimators as gmm_estimators
from spire_core.mixture import exact_errors as gmm_reference
from spire_core.mixture.descent import DescentConfig, descend_all_t, descend_fixed_t
from spire_core.mixture.two_components import draw_projected, normals, signal_and_noise, time_of

AT_T, OVER_T, LIKELIHOOD = "descent at one t", "descent over all t", "maximum likelihood"
MOMENT, ONE_AXIS, STEP = "moment, noised", "moment, noised, one axis", "one step from 1/2"
BOUND, CRAMER_RAO, SANDWICH = "published bound", "Cramer-Rao", "sandwich at t"
MOST_LEFT = 0.05  # of the way to the weight: more would lower the spread of estimates visibly
MOST_BIAS = 0.02  # bias^2, as a part of the error at the largest n
STUCK = 6.0  # m_t from which on no number of steps is enough


def check_scaling(config: TheoryConfig) -> None:
    """Raise ConfigError for settings that show no slope, one component, or descent on its way."""
    for name in ("nums", "dims"):
        found = getattr(config.scaling, name)
        wanted = f"two different entries of scaling.{name} or more"
        require(len(set(found)) > 1, wanted, list(found), "a slope needs them")
    for d in (config.scaling.d, *config.scaling.dims):
        time_of(config.scaling.m_t, config.c * math.sqrt(d))
    fewest, rarer = min(config.scaling.n, *config.scaling.nums), min(config.w, 1.0 - config.w)
    wanted = f"scaling.n and scaling.nums of at least {math.ceil(1.0 / rarer)} at w = {config.w:g}"
    require(fewest * rarer >= 1.0, wanted, fewest, "fewer samples seldom show both components")
    _check_descent(config)


def _check_descent(config: TheoryConfig) -> None:
    """Raise ConfigError if descent at one t, without noise, does not end near enough to w."""
    group, w = config.scaling, config.w
    path = gmm_reference.expected_path(w, min(group.m_t, STUCK), group.steps)
    factor = gmm_reference.linear_factor(w, min(group.m_t, STUCK))
    last = range(group.steps - group.averaged + 1, group.steps + 1)
    way, bias = abs(path[0] - w), abs(fmean(path[i] for i in last) - w)
    left, most = fmean(factor**i for i in last), MOST_LEFT
    if way > 0.0:
        error = w * (1.0 - w) / max(group.n, *group.nums)
        left, most = max(left, bias / way), min(most, math.sqrt(MOST_BIAS * error) / way)
    require(
        left <= most,
        f"steps that leave at most {most:.2g} of the way from 1/2 to w",
        f"{left:.2g} after {group.steps}",
        "raise scaling.steps or lower scaling.m_t",
    )


def run_scaling(config: TheoryConfig) -> Outcome:
    """Return errors against n and d, their slopes, and comparisons with the references."""
    group = config.scaling
    by_n = [_point(config, group.d, n, i) for i, n in enumerate(group.nums)]
    by_d = [_point(config, d, group.n, 100 + i) for i, d in enumerate(group.dims)]
    slopes = {
        name: slope([(n, row[name]) for n, row in zip(group.nums, by_n, strict=True)])
        for name in (AT_T, OVER_T, LIKELIHOOD, MOMENT)
    }
    panels = [
        _panel(f"against n (d = {group.d})", "samples n", group.nums, by_n, None),
        _panel(f"against d (n = {group.n})", "dimension d", group.dims, by_d, group.n),
    ]
    numbers = {"slope_n": slopes[AT_T].mean, "slope_n_error": slopes[AT_T].error}
    return Outcome(
        "scaling",
        f"A: the error of w_hat at w = {config.w:g}, m_t = {group.m_t:g}, over "
        f"{config.replicates} replicates",
        [*_slope_claims(slopes), *_d_claims(config, by_d), *_bound_claims(config, by_d)],
        {
            "against n, as n * MSE": _columns("n", group.nums, by_n, group.nums),
            "against d, as n * MSE": _columns("d", group.dims, by_d, [group.n] * len(group.dims)),
        },
        panels,
        numbers,
    )


def _point(config: TheoryConfig, d: int, n: int, point: int) -> dict[str, Score]:
    """Return the error of every estimator, and every reference, at one (d, n)."""
    group, m = config.scaling, config.c * math.sqrt(d)
    t = time_of(group.m_t, m)
    signal, sigma = signal_and_noise(t)
    how = DescentConfig(steps=group.steps, averaged=group.averaged)

    def measure(size: int, generator: np.random.Generator) -> Mapping[str, Tensor]:
        y = draw_projected(config.w, m, (size, n), generator)
        z = normals(generator, size, n)
        # One axis of mu = c (1, ..., 1): its share of the signal is c, and its noise is the same.
        one_axis = draw_projected(config.w, config.c, (size, n), generator)
        one_axis = signal * one_axis + sigma * normals(generator, size, n)
        estimates = {
            AT_T: descend_fixed_t(y, m, t, how, generator),
            OVER_T: descend_all_t(y, m, how, generator),
            LIKELIHOOD: gmm_estimators.maximum_likelihood(y, m),
            MOMENT: gmm_estimators.moment(signal * y + sigma * z, group.m_t),
            ONE_AXIS: gmm_estimators.moment(one_axis, signal * config.c),
            STEP: gmm_estimators.one_step(y, z, m, t),
        }
        return {name: (w_hat - config.w) ** 2 for name, w_hat in estimates.items()}

    stream = (config.seed, "theory_scaling", point)
    scores = over_replicates(config.replicates, n, stream, measure)
    references = {
        BOUND: gmm_reference.published_bound(config.w, group.m_t, d, n),
        "moment, exact": gmm_reference.moment_error(config.w, group.m_t, n),
        "one step, exact": gmm_reference.one_step_error(config.w, m, t, n),
        SANDWICH: gmm_reference.fixed_t_error(config.w, m, t, n, group.averaged),
        CRAMER_RAO: gmm_reference.cramer_rao(config.w, m, n),
    }
    return scores | {name: Score(value, 0.0) for name, value in references.items()}


def _columns(name: str, xs, rows, nums) -> dict[str, list[float]]:
    columns: dict[str, list[float]] = {name: list(xs)}
    for key in rows[0]:
        scores = [row[key].scaled(n) for row, n in zip(rows, nums, strict=True)]
        columns[key] = [s.mean for s in scores]
        if any(s.error for s in scores):
            columns[f"{key} +-"] = [s.error for s in scores]
    return columns


def _panel(title: str, xlabel: str, xs, rows, n: int | None) -> Panel:
    curves = {}
    for key in (AT_T, OVER_T, LIKELIHOOD, MOMENT, STEP, BOUND, CRAMER_RAO):
        scores = [row[key] if n is None else row[key].scaled(n) for row in rows]
        points = [(x, s.mean) for x, s in zip(xs, scores, strict=True)]
        is_reference = key in (BOUND, CRAMER_RAO)
        curves[key] = Curve(points, [s.error for s in scores], is_reference)
    return Panel(title, xlabel, "MSE" if n is None else "n * MSE", curves)


def _slope_claims(slopes: Mapping[str, Score]) -> list[Claim]:
    return [
        Claim(
            f"slope in n of {name}: {s.mean:.3f} +- {s.error:.3f}, within 0.08 of -1",
            abs(s.mean + 1.0) <= 0.08,
        )
        for name, s in slopes.items()
    ]


def _d_claims(config: TheoryConfig, by_d: list[dict[str, Score]]) -> list[Claim]:
    group = config.scaling
    trend = slope([(d, row[AT_T]) for d, row in zip(group.dims, by_d, strict=True)])
    scores = [row[AT_T].scaled(group.n) for row in by_d]
    off = max(abs(row[AT_T].mean - row[SANDWICH].mean) / row[AT_T].error for row in by_d)
    return [
        Claim(
            f"descent at one t: slope in d {trend.mean:.3f} +- {trend.error:.3f}; n * MSE from "
            f"{min(s.mean for s in scores):.3f} to {max(s.mean for s in scores):.3f}; at most "
            f"{off:.1f} standard errors from the sandwich",
            off <= NUM_ERRORS,
        )
    ]


def _bound_claims(config: TheoryConfig, by_d: list[dict[str, Score]]) -> list[Claim]:
    """Compare the moment of one axis with the bound (equal), and that of the projection (1 / d)."""
    group = config.scaling
    off = max(abs(r[ONE_AXIS].mean - r[BOUND].mean) / r[ONE_AXIS].error for r in by_d)
    exact = max(abs(r[MOMENT].mean - r["moment, exact"].mean) / r[MOMENT].error for r in by_d)
    d, last = group.dims[-1], by_d[-1]
    second = group.n * (last[MOMENT].mean - config.w * (1.0 - config.w) / group.n)
    factor = d / (4.0 * group.m_t**2) / second
    return [
        Claim(
            f"the moment of one noised axis meets the bound with equality ({off:.1f} standard "
            "errors at most)",
            off <= NUM_ERRORS,
        ),
        Claim(
            f"the moment of the noised projection has 1 in place of d in the second term "
            f"({exact:.1f} standard errors at most): loose by {factor:.0f} at d = {d}",
            exact <= NUM_ERRORS,
        ),
    ]
