"""Experiment B: where descent at one t fails, and up to which m_t the published bound holds."""

import math
from collections.abc import Mapping
from itertools import product

import numpy as np
import pandas as pd
from torch import Tensor

from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import Claim, Outcome, Panel
from pipeline.theory.replicates import draw_replicates, scores, wide
from spire_core.mixture.estimators import averaged_minimiser, descend_fixed_t
from spire_core.mixture.expected_loss import expected_path, published_bound
from spire_core.mixture.two_components import draw_projected, time_of

REPLICATES = 500
N, DIMS = 200, (4, 16, 64, 256, 1024)
SEPARATIONS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.5)  # m_t, where they are below ||mu||
TIMES = (0.1, 1.0)
STEPS, AVERAGED = 200, 20
FLAT_FROM = 6.0  # m_t from which the averaged loss varies in h by rounding alone
MSE, STUCK, EXACT = "n * MSE", "stuck (no noise)", "n * MSE of the exact minimiser"
PLACE = ["d", "t", "m_t"]


def run(config: TheoryConfig) -> Outcome:
    """Return errors of descent from 1/2 at fixed t over a grid of d and m_t, and at fixed times."""
    at_m_t = [(d, m_t) for d, m_t in product(DIMS, SEPARATIONS) if m_t < math.sqrt(d)]
    places = [(d, time_of(m_t, math.sqrt(d))) for d, m_t in at_m_t]
    swept = pd.DataFrame([_point(config, d, t, i, False) for i, (d, t) in enumerate(places)])
    places = [(d, t) for t in TIMES for d in DIMS]
    timed = pd.DataFrame(
        [_point(config, d, t, i, True) for i, (d, t) in enumerate(places, len(swept))]
    )
    limits = {d: limit_of(own) for d, own in swept.groupby("d")}
    start = N * (0.5 - config.w) ** 2
    columns = [*PLACE, MSE, f"{MSE} +-", "bound", STUCK]
    return Outcome(
        f"B: descent from 1/2 at one t, w = {config.w:g}, n = {N}, mean of the last "
        f"{AVERAGED} of {STEPS} steps",
        [_limit_claim(limits[d], own, start) for d, own in swept.groupby("d")],
        {
            "n * MSE at m_t": swept[columns],
            "n * MSE at fixed t": timed[[*columns, EXACT, f"{EXACT} +-"]],
        },
        [
            _panel("each d at several m_t", swept, "m_t", "d", "m_t"),
            _panel("each t at several d", timed, "d", "t", "dimension d"),
        ],
        {f"limit_m_t_d{d}": m_t for d, m_t in limits.items() if m_t is not None},
    )


def _point(
    config: TheoryConfig, d: int, t: float, point: int, has_minimum: bool
) -> dict[str, float]:
    w, m = config.w, math.sqrt(d)
    m_t = m * math.exp(-t)
    has_minimum = has_minimum and m_t < FLAT_FROM

    def measure(num: int, generator: np.random.Generator) -> Mapping[str, Tensor]:
        y = draw_projected(w, m, (num, N), generator)
        found = {MSE: descend_fixed_t(y, m, t, STEPS, AVERAGED, generator)}
        if has_minimum:
            found[EXACT] = averaged_minimiser(y, m, t)
        return {name: N * (w_hat - w) ** 2 for name, w_hat in found.items()}

    errors = draw_replicates(config, REPLICATES, N, ("theory_failure", point), measure)
    stuck = N * (float(np.mean(expected_path(w, m_t, STEPS)[-AVERAGED:])) - w) ** 2
    row = {"d": d, "t": t, "m_t": round(m_t, 9), **scores(errors)}
    return row | {"bound": N * published_bound(w, m_t, d, N), STUCK: stuck}


def limit_of(rows: pd.DataFrame) -> float | None:
    """Return the m_t at which error and bound cross, by log-linear interpolation, or None."""
    m_t, ratio = rows["m_t"].to_numpy(), np.log((rows[MSE] / rows["bound"]).to_numpy())
    for i in np.flatnonzero((ratio[:-1] <= 0.0) & (ratio[1:] > 0.0)):
        return float(m_t[i] + (m_t[i + 1] - m_t[i]) * ratio[i] / (ratio[i] - ratio[i + 1]))
    return None


def _limit_claim(limit: float | None, rows: pd.DataFrame, start: float) -> Claim:
    d, fails = rows["d"].iloc[0], rows[MSE].iloc[0] > rows["bound"].iloc[0]
    if limit is not None:
        return Claim(f"d = {d}: the bound holds up to m_t = {limit:.2f}")
    at, holds = (rows.iloc[0], "fails from") if fails else (rows.iloc[-1], "holds at all m_t up to")
    return Claim(
        f"d = {d}: the bound {holds} {at['m_t']:g}, where it is {at['bound']:.2f} and n * MSE is "
        f"{at[MSE]:.2f} (the start alone has {start:.2f})"
    )


def _panel(title: str, rows: pd.DataFrame, x: str, by: str, xlabel: str) -> Panel:
    ends = {MSE: "", f"{MSE} +-": " +-", "bound": ", bound"}
    frame = wide(rows, x, by, by + " = {:g}", ends).rename_axis(xlabel)
    names = [*frame.columns]
    return Panel(title, MSE, frame, names[::3], names[2::3])
