"""Experiment G: descent on the expected loss finds the weights from anywhere.

Two Gaussians at one t, and components of any shape over all t (`any_shapes`).
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.theory.any_shapes import gap_panel, needed_steps, shape_findings, true_weights
from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import Claim, Curve, Outcome, Panel
from spire_core.config.checks import require
from spire_core.mixture.exact_errors import expected_path, linear_factor
from spire_core.mixture.landscape import CURVATURES, at_one_t, least_rate_bound, least_secant
from spire_core.mixture.two_components import log_odds

PLACES = torch.linspace(-6.0, 6.0, 241, dtype=torch.float64)  # h
STARTS = (0.001, 0.5, 0.999)
ROUNDING = 1e-9
MAX_STEPS = 10_000  # of descent over all t; weights that need more are hard to estimate
NEAR = 1e-5  # distances in h below it are not compared from step to step
LARGEST, SMALLEST = "largest curvature", "smallest curvature"
STEEPEST, LEAST = "largest secant", "smallest secant / bound"
RATE, RATE_BOUND = "1 - factor", "1 - factor, bound"


def check_landscape(config: TheoryConfig) -> None:
    """Raise ConfigError if a component's weight is so small that descent would take too long."""
    require(
        needed_steps(config) <= MAX_STEPS,
        f"weights of shapes that descent finds in {MAX_STEPS} steps",
        f"{float(true_weights(config).min()):.2g} as the least, which takes more",
        "raise landscape.concentration or change seed",
    )


def run_landscape(config: TheoryConfig) -> Outcome:
    """Return curvatures, secants and paths of two components, and paths of any components."""
    shapes = _two_components(config)
    passes, excess, long_passes, num = _paths(config)
    findings = shape_findings(config)
    return Outcome(
        "landscape",
        "G: the expected loss as a function of the weights, and descent on it from anywhere",
        [*_shape_claims(shapes), *_path_claims(passes, excess, long_passes, num), *findings.claims],
        {
            f"two components at one t, in units of 2 m_t^2, w = {config.w:g}": shapes,
            **findings.tables,
        },
        [_shape_panel(shapes), gap_panel(findings)],
        {"largest_curvature": max(shapes[f"{LARGEST}, any w"])},
    )


def _two_components(config: TheoryConfig) -> dict[str, list[float]]:
    """Return extremes over h at each m_t, for the configured w and over all of `weights`."""
    columns: dict[str, list[float]] = {"m_t": list(config.landscape.separations)}
    weights = (config.w, *config.landscape.weights)
    for m_t in config.landscape.separations:
        own, *others = [_extremes(w, m_t) for w in weights]
        for name, value in own.items():
            pick = min if name in (SMALLEST, LEAST) else max
            columns.setdefault(name, []).append(value)
            worst = pick([value, *(other[name] for other in others)])
            columns.setdefault(f"{name}, any w", []).append(worst)
        columns.setdefault(RATE, []).append(1.0 - linear_factor(config.w, m_t))
        columns.setdefault(RATE_BOUND, []).append(least_rate_bound(config.w, m_t))
    return columns


def _extremes(w: float, m_t: float) -> dict[str, float]:
    h = PLACES
    gradient, curvature = at_one_t(w, m_t, h)
    distance = h - log_odds(torch.tensor(w, dtype=h.dtype))
    away = distance.abs() > 0.01
    secant = gradient[away] / distance[away]
    return {
        LARGEST: float(curvature.max()),
        SMALLEST: float(curvature.min()),
        STEEPEST: float(secant.max()),
        LEAST: float((secant / least_secant(w, m_t, h)[away]).min()),
    }


def _paths(config: TheoryConfig) -> tuple[int, float, int, int]:
    """Return how descent from all starts goes, with steps 1 / L and, for comparison, 4 / L.

    The number of paths that pass the minimum; by how much a step's factor exceeds its bound at
    most; the number that pass it with the longer steps; the number of paths.
    """
    passes, excess, long_passes, num = 0, -math.inf, 0, 0
    for w in (config.w, *config.landscape.weights):
        for m_t in config.landscape.separations:
            for start in STARTS:
                num += 1
                passes += _passes(w, m_t, start, 1.0)
                long_passes += _passes(w, m_t, start, 4.0)
                excess = max(excess, *_excesses(w, m_t, start))
    return passes, excess, long_passes, num


def _distances(w: float, m_t: float, start: float, lr: float) -> Tensor:
    """Return h - h* along a path as long as it is not near."""
    path = torch.tensor(expected_path(w, m_t, 40, lr, start), dtype=torch.float64)
    away = log_odds(path) - log_odds(torch.tensor(w, dtype=torch.float64))
    is_near = (away.abs() < NEAR).nonzero()
    return away[: int(is_near[0]) if len(is_near) else None]


def _passes(w: float, m_t: float, start: float, lr: float) -> bool:
    return bool((_distances(w, m_t, start, lr).sign().diff() != 0).any())


def _excesses(w: float, m_t: float, start: float) -> Iterator[float]:
    away = _distances(w, m_t, start, 1.0)
    yield -math.inf
    if len(away) > 1:
        here = away[:-1]
        bound = 1.0 - least_secant(w, m_t, here + log_odds(torch.tensor(w, dtype=here.dtype)))
        yield float((away[1:] / here - bound).max())


def _shape_claims(shapes: dict[str, list[float]]) -> list[Claim]:
    largest, smallest = max(shapes[f"{LARGEST}, any w"]), min(shapes[f"{SMALLEST}, any w"])
    steepest, least = max(shapes[f"{STEEPEST}, any w"]), min(shapes[f"{LEAST}, any w"])
    pairs = list(zip(shapes[RATE], shapes[RATE_BOUND], strict=True))
    over = "2 m_t^2 is not the largest" if largest > 1.0 else "none here is above 2 m_t^2"
    return [
        Claim(
            f"the curvature in h is {smallest:.2f} to {largest:.2f} times 2 m_t^2 (at w of the "
            f"table {min(shapes[SMALLEST]):.2f} to {max(shapes[LARGEST]):.2f}), inside "
            f"{CURVATURES[0]:.2f}..{CURVATURES[1]:.2f}: {over}",
            CURVATURES[0] <= smallest and largest <= CURVATURES[1],
        ),
        Claim(
            f"gradient / (h - h*) is at most {steepest:.4f} times 2 m_t^2, and at least "
            f"{least:.2f} times E min(sech^4 u, sech^4 u*)",
            0.0 < steepest <= 1.0 + ROUNDING and least >= 1.0 - ROUNDING,
        ),
        Claim(
            f"1 - factor is at most {max(rate / bound for rate, bound in pairs):.2f} of "
            f"sqrt(pi w (1 - w) / 2) exp(-m_t^2 / 2) / m_t",
            all(rate <= bound + ROUNDING for rate, bound in pairs),
        ),
    ]


def _path_claims(passes: int, excess: float, long_passes: int, num: int) -> list[Claim]:
    return [
        Claim(
            f"{passes} of {num} paths with steps 1 / L pass the minimum ({long_passes} with 4 / L)",
            passes == 0,
        ),
        Claim(
            f"each step's factor is at most 1 - E min(sech^4 u, sech^4 u*), by {-excess:.1e} or "
            "more",
            excess <= ROUNDING,
        ),
    ]


def _shape_panel(shapes: dict[str, list[float]]) -> Panel:
    curves = {
        name: Curve(list(zip(shapes["m_t"], shapes[name], strict=True)))
        for name in (LARGEST, f"{LARGEST}, any w", SMALLEST, f"{SMALLEST}, any w", STEEPEST)
    }
    return Panel("two components at one t", "m_t", "in units of 2 m_t^2", curves, "logx")
