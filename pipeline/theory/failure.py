"""Experiment B: where descent at one t fails, and up to which m_t the published bound holds."""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from torch import Tensor

from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import Claim, Curve, Outcome, Panel, Score, over_replicates
from spire_core.mixture.descent import DescentConfig, descend_fixed_t
from spire_core.mixture.exact_errors import expected_path, published_bound
from spire_core.mixture.two_components import draw_projected, time_of


class Row(NamedTuple):
    """One point: n * MSE beside n * bound, and n times the squared bias of noiseless descent."""

    d: int
    t: float
    m_t: float
    measured: Score
    bound: float
    stuck: float

    @property
    def is_met(self) -> bool:
        """Return whether the error is below the bound."""
        return self.measured.mean <= self.bound


def run_failure(config: TheoryConfig) -> Outcome:
    """Return errors of descent from 1/2 at fixed t over a grid of d and m_t, and at fixed times."""
    group = config.failure
    places = []
    for d in group.dims:
        m = config.c * math.sqrt(d)
        places += [(d, time_of(m_t, m)) for m_t in group.separations if m_t < m]
    num_swept = len(places)
    places += [(d, t) for t in group.times for d in group.dims]
    rows = [_row(config, d, t, point) for point, (d, t) in enumerate(places)]
    swept, timed = rows[:num_swept], rows[num_swept:]
    limits = {d: _limit([r for r in swept if r.d == d]) for d in group.dims}
    return Outcome(
        "failure",
        f"B: descent from 1/2 at one t, w = {config.w:g}, n = {group.n}, {group.steps} steps",
        [*_limit_claims(limits, swept, group.n * (0.5 - config.w) ** 2), *_timed_claims(timed)],
        {"n * MSE at m_t": _columns(swept), "n * MSE at fixed t": _columns(timed)},
        [_panel(swept), _time_panel(config, timed)],
        {f"limit_m_t_d{d}": m_t for d, m_t in limits.items() if m_t is not None},
    )


def _row(config: TheoryConfig, d: int, t: float, point: int) -> Row:
    group, m = config.failure, config.c * math.sqrt(d)
    m_t = m * math.exp(-t)
    how = DescentConfig(steps=group.steps, averaged=group.averaged)

    def measure(size: int, generator: np.random.Generator) -> dict[str, Tensor]:
        y = draw_projected(config.w, m, (size, group.n), generator)
        return {"descent": (descend_fixed_t(y, m, t, how, generator) - config.w) ** 2}

    stream = (config.seed, "theory_failure", point)
    error = over_replicates(config.replicates, group.n, stream, measure)["descent"]
    path = expected_path(config.w, m_t, group.steps)[-group.averaged :]
    stuck = group.n * (float(np.mean(path)) - config.w) ** 2
    bound = group.n * published_bound(config.w, m_t, d, group.n)
    return Row(d, t, m_t, error.scaled(group.n), bound, stuck)


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
        top = max((r for r in rows if r.d == d), key=lambda r: r.m_t)
        text = f"d = {d}: the bound holds up to m_t = {m_t:.2f}"
        if not m_t:
            text = (
                f"d = {d}: the bound holds at all m_t up to {top.m_t:g}, where it is "
                f"{top.bound:.2f} and n * MSE is {top.measured.mean:.2f} (the start alone has "
                f"{start:.2f})"
            )
        claims.append(Claim(text))
    return claims


def _timed_claims(rows: list[Row]) -> list[Claim]:
    return [
        Claim(
            f"(d = {r.d}, t = {r.t:g}), m_t = {r.m_t:.2f}: n * MSE {r.measured.mean:.3f} +- "
            f"{r.measured.error:.3f} is {'below' if r.is_met else 'ABOVE'} the bound {r.bound:.3f}",
        )
        for r in rows
    ]


def _columns(rows: list[Row]) -> dict[str, list[float]]:
    return {
        "d": [r.d for r in rows],
        "t": [r.t for r in rows],
        "m_t": [r.m_t for r in rows],
        "n * MSE": [r.measured.mean for r in rows],
        "n * MSE +-": [r.measured.error for r in rows],
        "bound": [r.bound for r in rows],
        "stuck (no noise)": [r.stuck for r in rows],
    }


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
