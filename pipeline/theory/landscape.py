"""Experiment G: descent on the expected loss finds the weights from anywhere.

Two Gaussians at one t, and components of any shape over all t (`any_shapes`).
"""

import math
from itertools import product

import pandas as pd
import torch
from torch import Tensor

from pipeline.theory.any_shapes import run_any_shapes
from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import ROUNDING, Claim, Outcome, Panel
from spire_core.mixture import expected_loss
from spire_core.mixture.two_components import log_odds

SEPARATIONS = (0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)  # m_t; above 6, 1 - factor is rounding
WEIGHTS = (0.001, 0.02, 0.1, 0.5)  # beside the common w
PLACES = torch.linspace(-6.0, 6.0, 241, dtype=torch.float64)  # h
STARTS = (0.001, 0.5, 0.999)
NEAR = 1e-5  # distances in h below it are not compared from step to step
LARGEST, SMALLEST = "largest curvature", "smallest curvature"
STEEPEST, LEAST = "largest secant", "smallest secant / bound"
RATE, RATE_BOUND = "1 - factor", "1 - factor, bound"
WORST = {LARGEST: max, SMALLEST: min, STEEPEST: max, LEAST: min}


def run_landscape(config: TheoryConfig) -> Outcome:
    """Return the landscape of two Gaussians, and descents and estimates of any components."""
    weights = (config.w, *WEIGHTS)
    extremes = pd.DataFrame([_extremes_of_all(weights, m_t) for m_t in SEPARATIONS])
    paths = pd.DataFrame([_path(*place) for place in product(weights, SEPARATIONS, STARTS)])
    curves = [LARGEST, f"{LARGEST}, any w", SMALLEST, f"{SMALLEST}, any w", STEEPEST]
    units, by_m_t = "in units of 2 m_t^2", extremes.set_index("m_t")
    gaussians = Outcome(
        "G: the expected loss as a function of the weights, and descent on it from anywhere",
        [*extreme_claims(extremes), *path_claims(paths)],
        {f"two components at one t, {units}, w = {config.w:g}": extremes},
        [Panel("two components at one t", units, by_m_t, curves, scale="logx")],
        {"largest_curvature": float(extremes[f"{LARGEST}, any w"].max())},
    )
    return gaussians + run_any_shapes(config)


def _extremes_of_all(weights: tuple[float, ...], m_t: float) -> dict[str, float]:
    """Return extremes over h at one m_t, for the first weight and over all of them."""
    found, row = pd.DataFrame([_extremes(w, m_t) for w in weights]), {"m_t": m_t}
    for name, worst in WORST.items():
        row |= {name: found[name][0], f"{name}, any w": worst(found[name])}
    row[RATE] = expected_loss.rate(weights[0], m_t)
    return row | {RATE_BOUND: expected_loss.least_rate_bound(weights[0], m_t)}


def _extremes(w: float, m_t: float) -> dict[str, float]:
    gradient, curvature = expected_loss.at_one_t(w, m_t, PLACES)
    distance = PLACES - log_odds(torch.tensor(w, dtype=PLACES.dtype))
    away = distance.abs() > 0.01
    secant = gradient[away] / distance[away]
    return {
        LARGEST: float(curvature.max()),
        SMALLEST: float(curvature.min()),
        STEEPEST: float(secant.max()),
        LEAST: float((secant / expected_loss.least_secant(w, m_t, PLACES)[away]).min()),
    }


def _path(w: float, m_t: float, start: float) -> dict[str, float]:
    """Return whether descent passes the minimum with steps 1 / L and, for comparison, with 4 / L.

    `excess`: by how much the factor of a step of 1 / L exceeds its bound, at most.
    """
    away, longer = (_distances(w, m_t, start, lr) for lr in (1.0, 4.0))
    excess = -math.inf
    if len(away) > 1:
        here = away[:-1] + log_odds(torch.tensor(w, dtype=away.dtype))
        bound = 1.0 - expected_loss.least_secant(w, m_t, here)
        excess = float((away[1:] / away[:-1] - bound).max())
    passes, passes_longer = (bool((d.sign().diff() != 0).any()) for d in (away, longer))
    return {"passes": passes, "passes with 4 / L": passes_longer, "excess": excess}


def _distances(w: float, m_t: float, start: float, lr: float) -> Tensor:
    """Return h - h* along a path as long as it is not near."""
    path = torch.tensor(expected_loss.expected_path(w, m_t, 40, lr, start), dtype=torch.float64)
    away = log_odds(path) - log_odds(torch.tensor(w, dtype=torch.float64))
    is_near = (away.abs() < NEAR).nonzero()
    return away[: int(is_near[0]) if len(is_near) else None]


def extreme_claims(extremes: pd.DataFrame) -> list[Claim]:
    """Return whether curvatures, secants and rates are within their bounds."""
    low, high = expected_loss.CURVATURES
    largest, smallest, steepest, least = (
        worst(extremes[f"{name}, any w"]) for name, worst in WORST.items()
    )
    return [
        Claim(
            f"the curvature in h is {smallest:.2f} to {largest:.2f} times 2 m_t^2 (at w of the "
            f"table {extremes[SMALLEST].min():.2f} to {extremes[LARGEST].max():.2f}), inside "
            f"{low:.2f}..{high:.2f}: 2 m_t^2 is not the largest",
            low <= smallest and largest <= high,
        ),
        Claim(
            f"gradient / (h - h*) is at most {steepest:.4f} times 2 m_t^2, and at least "
            f"{least:.2f} times E min(sech^4 u, sech^4 u*)",
            0.0 < steepest <= 1.0 + ROUNDING and least >= 1.0 - ROUNDING,
        ),
        Claim(
            f"1 - factor is at most {(extremes[RATE] / extremes[RATE_BOUND]).max():.2f} of "
            f"sqrt(pi w (1 - w) / 2) exp(-m_t^2 / 2) / m_t",
            (extremes[RATE] <= extremes[RATE_BOUND] + ROUNDING).all(),
        ),
    ]


def path_claims(paths: pd.DataFrame) -> list[Claim]:
    """Return whether no path passes the minimum, and no step is slower than its bound."""
    passes, longer, excess = (
        paths["passes"].sum(),
        paths["passes with 4 / L"].sum(),
        paths["excess"],
    )
    return [
        Claim(
            f"{passes} of {len(paths)} paths with steps 1 / L pass the minimum ({longer} with "
            "4 / L)",
            passes == 0,
        ),
        Claim(
            f"each step's factor is at most 1 - E min(sech^4 u, sech^4 u*), by {-excess.max():.1e} "
            "or more",
            excess.max() <= ROUNDING,
        ),
    ]
