"""Experiment B: where descent at one t fails, and up to which m_t the published bound holds."""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from torch import Tensor

from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import Claim, Curve, Outcome, Panel, Score, draw_replicates, score
from spire_core.mixture.averaged_loss import averaged_minimiser
from spire_core.mixture.descent import DescentConfig, descend_fixed_t
from spire_core.mixture.exact_errors import expected_path, fixed_t_error, published_bound
from spire_core.mixture.two_components import draw_projected, time_of

FLAT_FROM = 6.0  # m_t from which the averaged loss varies in h by rounding alone


class Minimum(NamedTuple):
    """n * MSE of the exact minimiser of the noise-averaged loss, and its asymptotic value."""

    measured: Score
    median: float
    asymptotic: float


NO_MINIMUM = Minimum(Score(math.nan, math.nan), math.nan, math.nan)


class Row(NamedTuple):
    """One point: n * MSE beside n * bound, and n times the squared bias of noiseless descent.

    `path` is that of descent without noise, w at each step.
    """

    d: int
    t: float
    m_t: float
    measured: Score
    bound: float
    path: list[float]
    minimum: Minimum


def check_failure(config: TheoryConfig) -> None:
    """Raise ConfigError if ||mu|| exceeds no m_t at some d."""
    for d in config.failure.dims:
        time_of(min(config.failure.separations), config.c * math.sqrt(d))


def run_failure(config: TheoryConfig) -> Outcome:
    """Return errors of descent from 1/2 at fixed t over a grid of d and m_t, and at fixed times."""
    group = config.failure
    places = []
    for d in group.dims:
        m = config.c * math.sqrt(d)
        places += [(d, time_of(m_t, m)) for m_t in sorted(group.separations) if m_t < m]
    num_swept = len(places)
    places += [(d, t) for t in group.times for d in group.dims]
    rows = [_row(config, d, t, i, i >= num_swept) for i, (d, t) in enumerate(places)]
    swept, timed = rows[:num_swept], rows[num_swept:]
    limits = {d: _limit([r for r in swept if r.d == d]) for d in group.dims}
    return Outcome(
        "failure",
        f"B: descent from 1/2 at one t, w = {config.w:g}, n = {group.n}, mean of the last "
        f"{group.averaged} of {group.steps} steps",
        [*_limit_claims(limits, swept, group.n * (0.5 - config.w) ** 2), *_timed_claims(timed)],
        {
            "n * MSE at m_t": _columns(config, swept),
            "n * MSE at fixed t": _columns(config, timed),
            "the loss at fixed t, averaged over all noise": _minimum_columns(timed),
            "n * MSE of descent without noise, by the number of last steps averaged": (
                _window_columns(config, timed)
            ),
        },
        [_panel(swept), _time_panel(config, timed)],
        {f"limit_m_t_d{d}": m_t for d, m_t in limits.items() if m_t is not None},
    )


def _row(config: TheoryConfig, d: int, t: float, point: int, has_minimum: bool) -> Row:
    group, m = config.failure, config.c * math.sqrt(d)
    m_t = m * math.exp(-t)
    has_minimum = has_minimum and m_t < FLAT_FROM
    how = DescentConfig(steps=group.steps, averaged=group.averaged)

    def measure(size: int, generator: np.random.Generator) -> dict[str, Tensor]:
        y = draw_projected(config.w, m, (size, group.n), generator)
        found = {"descent": descend_fixed_t(y, m, t, how, generator)}
        if has_minimum:
            found["minimum"] = averaged_minimiser(y, m, t)
        return {name: group.n * (w_hat - config.w) ** 2 for name, w_hat in found.items()}

    stream = (config.seed, "theory_failure", point)
    errors = draw_replicates(config.replicates, group.n, stream, measure)
    minimum = NO_MINIMUM
    if has_minimum:
        asymptotic = group.n * fixed_t_error(config.w, m, t, group.n)
        median = float(errors["minimum"].median())
        minimum = Minimum(score(errors["minimum"]), median, asymptotic)
    path = expected_path(config.w, m_t, group.steps)
    bound = group.n * published_bound(config.w, m_t, d, group.n)
    return Row(d, t, m_t, score(errors["descent"]), bound, path, minimum)


def _without_noise(config: TheoryConfig, row: Row, averaged: int) -> float:
    """Return n * squared bias of the mean of the last steps of descent without noise."""
    return config.failure.n * (float(np.mean(row.path[-averaged:])) - config.w) ** 2


def _limit(rows: list[Row]) -> float | None:
    """Return the m_t at which error and bound cross, by log-linear interpolation, or None."""
    for low, high in pairwise(rows):
        a, b = (math.log(r.measured.mean / r.bound) for r in (low, high))
        if a <= 0.0 < b:
            return low.m_t + (high.m_t - low.m_t) * a / (a - b)
    return None


def _limit_claims(limits: dict[int, float | None], rows: list[Row], start: float) -> list[Claim]:
    claims = []
    for d, m_t in limits.items():
        own = [r for r in rows if r.d == d]
        if m_t is not None:
            claims.append(Claim(f"d = {d}: the bound holds up to m_t = {m_t:.2f}"))
            continue
        fails = own[0].measured.mean > own[0].bound
        at, what = (own[0], "fails from") if fails else (own[-1], "holds at all m_t up to")
        text = (
            f"the bound {what} {at.m_t:g}, where it is {at.bound:.2f} and n * MSE is "
            f"{at.measured.mean:.2f} (the start alone has {start:.2f})"
        )
        claims.append(Claim(f"d = {d}: {text}"))
    return claims


def _timed_claims(rows: list[Row]) -> list[Claim]:
    claims = []
    for r in rows:
        text = (
            f"(d = {r.d}, t = {r.t:g}), m_t = {r.m_t:.2f}: n * MSE {r.measured.mean:.3f} +- "
            f"{r.measured.error:.3f} is {_side(r.measured.mean, r.bound)} the bound {r.bound:.3f}"
        )
        if math.isfinite(r.minimum.asymptotic):
            text += (
                f"; {r.minimum.measured.mean:.3f} +- {r.minimum.measured.error:.3f} of the exact "
                f"minimiser is {_side(r.minimum.measured.mean, r.bound)}"
            )
        claims.append(Claim(text))
    return claims


def _side(value: float, bound: float) -> str:
    return "below" if value <= bound else "ABOVE"


def _columns(config: TheoryConfig, rows: list[Row]) -> dict[str, list[float]]:
    return {
        "d": [r.d for r in rows],
        "t": [r.t for r in rows],
        "m_t": [r.m_t for r in rows],
        "n * MSE": [r.measured.mean for r in rows],
        "n * MSE +-": [r.measured.error for r in rows],
        "bound": [r.bound for r in rows],
        "stuck (no noise)": [_without_noise(config, r, config.failure.averaged) for r in rows],
    }


def _minimum_columns(rows: list[Row]) -> dict[str, list[float]]:
    """Return exact and asymptotic errors of the minimiser where the loss is not flat."""
    rows = [r for r in rows if math.isfinite(r.minimum.asymptotic)]
    return {
        "d": [r.d for r in rows],
        "t": [r.t for r in rows],
        "m_t": [r.m_t for r in rows],
        "n * MSE of the exact minimiser": [r.minimum.measured.mean for r in rows],
        "n * MSE of the exact minimiser +-": [r.minimum.measured.error for r in rows],
        "median": [r.minimum.median for r in rows],
        "asymptotic": [r.minimum.asymptotic for r in rows],
        "bound": [r.bound for r in rows],
    }


def _window_columns(config: TheoryConfig, rows: list[Row]) -> dict[str, list[float]]:
    windows = sorted({1, config.failure.averaged, max(1, config.failure.steps // 2)})
    columns = {"d": [r.d for r in rows], "t": [r.t for r in rows], "m_t": [r.m_t for r in rows]}
    for window in windows:
        columns[f"last {window}"] = [_without_noise(config, r, window) for r in rows]
    return columns


def _panel(rows: list[Row]) -> Panel:
    curves: dict[str, Curve] = {}
    for d in sorted({r.d for r in rows}):
        own = [r for r in rows if r.d == d]
        points = [(r.m_t, r.measured.mean) for r in own]
        curves[f"d = {d}"] = Curve(points, [r.measured.error for r in own])
    for d in sorted({r.d for r in rows}):
        own = [(r.m_t, r.bound) for r in rows if r.d == d]
        curves[f"bound, d = {d}"] = Curve(own, is_reference=True)
    return Panel("each d at several m_t", "m_t", "n * MSE", curves)


def _time_panel(config: TheoryConfig, rows: list[Row]) -> Panel:
    curves: dict[str, Curve] = {}
    for t in config.failure.times:
        own = [r for r in rows if r.t == t]
        points = [(r.d, r.measured.mean) for r in own]
        curves[f"t = {t:g}"] = Curve(points, [r.measured.error for r in own])
    for t in config.failure.times:
        own = [(r.d, r.bound) for r in rows if r.t == t]
        curves[f"bound, t = {t:g}"] = Curve(own, is_reference=True)
    return Panel("each t at several d", "dimension d", "n * MSE", curves)
