"""Experiment A: the error of each estimator against n and against d, beside what theory says."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from torch import Tensor

from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import NUM_ERRORS, Claim, Outcome, Panel
from pipeline.theory.replicates import draw_replicates, errors_off, scores, slope
from spire_core.mixture import expected_loss as exact
from spire_core.mixture.estimators import (
    descend_all_t,
    descend_fixed_t,
    maximum_likelihood,
    moment,
)
from spire_core.mixture.two_components import draw_projected, normals, signal_and_noise, time_of

REPLICATES = 500
M_T = 0.75  # at each d: t grows with log d
D, NUMS = 64, (50, 100, 200, 500, 1000, 2000, 10000)
N, DIMS = 200, (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
STEPS, AVERAGED = 32, 18  # enough at w = 0.3
AT_T, OVER_T, LIKELIHOOD = "descent at one t", "descent over all t", "maximum likelihood"
MOMENT, ONE_AXIS = "moment, noised", "moment, noised, one axis"
BOUND, CRAMER_RAO, SANDWICH = "published bound", "Cramer-Rao", "sandwich at t"
DRAWN = (AT_T, OVER_T, LIKELIHOOD, MOMENT)


def run(config: TheoryConfig) -> Outcome:
    """Return errors against n and d, their slopes, and comparisons with the references."""
    by_n = pd.DataFrame([{"n": n} | _point(config, D, n, i) for i, n in enumerate(NUMS)])
    by_d = pd.DataFrame([{"d": d} | _point(config, d, N, 100 + i) for i, d in enumerate(DIMS)])
    in_n = {
        name: slope(by_n["n"], by_n[name] / by_n["n"], by_n[f"{name} +-"] / by_n["n"])
        for name in (AT_T, OVER_T, LIKELIHOOD, MOMENT)
    }
    mse = by_n.set_index("n").div(by_n["n"].to_numpy(), axis=0)
    mse.index.name = "samples n"
    errors = by_d.set_index("d").rename_axis("dimension d")
    replicates = config.replicates or REPLICATES
    return Outcome(
        f"A: the error of w_hat at w = {config.w:g}, m_t = {M_T:g}, over {replicates} replicates",
        [*slope_claims(in_n), *d_claims(config.w, by_d)],
        {"against n, as n * MSE": by_n, "against d, as n * MSE": by_d},
        [
            Panel(f"against n (d = {D})", "MSE", mse, DRAWN, (BOUND, CRAMER_RAO)),
            Panel(f"against d (n = {N})", "n * MSE", errors, DRAWN, (BOUND, CRAMER_RAO)),
        ],
        {"slope_n": in_n[AT_T][0], "slope_n_error": in_n[AT_T][1]},
    )


def _point(config: TheoryConfig, d: int, n: int, point: int) -> dict[str, float]:
    """Return n * MSE of every estimator, and of every reference, at one (d, n)."""
    w, m = config.w, math.sqrt(d)
    t = time_of(M_T, m)
    signal, sigma = signal_and_noise(t)

    def measure(num: int, generator: np.random.Generator) -> Mapping[str, Tensor]:
        y = draw_projected(w, m, (num, n), generator)
        z = normals(generator, num, n)
        # One axis of mu = (1, ..., 1): its share of the signal is 1, and its noise is the same.
        one_axis = draw_projected(w, 1.0, (num, n), generator)
        one_axis = signal * one_axis + sigma * normals(generator, num, n)
        estimates = {
            AT_T: descend_fixed_t(y, m, t, STEPS, AVERAGED, generator),
            OVER_T: descend_all_t(y, m, STEPS, AVERAGED, generator),
            LIKELIHOOD: maximum_likelihood(y, m),
            MOMENT: moment(signal * y + sigma * z, M_T),
            ONE_AXIS: moment(one_axis, signal),
        }
        return {name: n * (w_hat - w) ** 2 for name, w_hat in estimates.items()}

    references = {
        BOUND: exact.published_bound(w, M_T, d, n),
        "moment, exact": exact.moment_error(w, M_T, n),
        SANDWICH: exact.fixed_t_error(w, m, t, n, AVERAGED),
        CRAMER_RAO: exact.cramer_rao(w, m, n),
    }
    values = draw_replicates(config, REPLICATES, n, ("theory_scaling", point), measure)
    return scores(values) | {name: n * value for name, value in references.items()}


def slope_claims(in_n: Mapping[str, tuple[float, float]]) -> list[Claim]:
    """Return whether each error falls as 1 / n, from slopes and their errors."""
    return [
        Claim(
            f"slope in n of {name}: {mean:.3f} +- {error:.3f}, within 0.08 of -1",
            abs(mean + 1.0) <= 0.08,
        )
        for name, (mean, error) in in_n.items()
    ]


def d_claims(w: float, by_d: pd.DataFrame) -> list[Claim]:
    """Return whether errors are those of theory at every d.

    The bound is that of the moment of one axis. In the error of the projection's moment, 1 stands
    in place of d.
    """
    mean, error = slope(by_d["d"], by_d[AT_T], by_d[f"{AT_T} +-"])
    off, axis_off, moment_off = (
        errors_off(by_d, name, expected)
        for name, expected in ((AT_T, SANDWICH), (ONE_AXIS, BOUND), (MOMENT, "moment, exact"))
    )
    last = by_d.iloc[-1]
    loose = last["d"] / (4.0 * M_T**2) / (last[MOMENT] - w * (1.0 - w))
    return [
        Claim(
            f"descent at one t: slope in d {mean:.3f} +- {error:.3f}; n * MSE from "
            f"{by_d[AT_T].min():.3f} to {by_d[AT_T].max():.3f}; at most "
            f"{off:.1f} standard errors from the sandwich",
            off <= NUM_ERRORS,
        ),
        Claim(
            f"the moment of one noised axis meets the bound with equality ({axis_off:.1f} standard "
            "errors at most)",
            axis_off <= NUM_ERRORS,
        ),
        Claim(
            f"the moment of the noised projection has 1 in place of d in the second term "
            f"({moment_off:.1f} standard errors at most): loose by {loose:.0f} at "
            f"d = {last['d']:.0f}",
            moment_off <= NUM_ERRORS,
        ),
    ]
