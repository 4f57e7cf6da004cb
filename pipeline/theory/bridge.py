"""Experiment F: the gradient of the denoising loss over all t is the gradient of -log q."""

import math
from itertools import pairwise

import torch

from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import Claim, Curve, Outcome, Panel
from spire_core.mixture.bridge import denoising_gradient, likelihood_gradient
from spire_core.mixture.landscape import at_one_t, over_all_t, resolved_share
from spire_core.mixture.two_components import draw_projected, log_odds, weight
from spire_core.rng import numpy_generator

TOLERANCE = 1e-6
LIMIT, IDENTITY = "2 w_h - 2 w", "2 (w_h - w) times resolved share"
OVER_T, AT_T, STEPS = "over all t", "at t = 1", "steps to 1 %, over all t"
MAX_STEPS = 1000


def run_bridge(config: TheoryConfig) -> Outcome:
    """Return the difference of the two sides, and how the gradient depends on ||mu||."""
    rows, curves = [], {}
    for point, m in enumerate(config.bridge.separations):
        generator = numpy_generator(config.seed, "theory_bridge", point)
        y = draw_projected(config.w, m, (1, config.bridge.n), generator)[0]
        w = torch.from_numpy(generator.uniform(0.02, 0.98, config.bridge.n))
        likelihood, denoising = likelihood_gradient(y, w, m), denoising_gradient(y, w, m)
        rows.append((m, float((likelihood - denoising).abs().max())))
        points = sorted(zip(likelihood.tolist(), denoising.tolist(), strict=True))
        curves[f"||mu|| = {m:g}"] = Curve(points)
    worst = max(difference for _, difference in rows)
    gradients = _gradients(config)
    labels = ("one point a sample", "d/dw of -log q_w(x0)", "integral of dL_t/dw over t")
    panel = Panel(*labels, curves, "linear", is_joined=False)
    return Outcome(
        "bridge",
        f"F: denoising over all t is maximum likelihood, {config.bridge.n} samples a separation",
        [
            Claim(f"both sides differ by {worst:.1e} per sample at most", worst <= TOLERANCE),
            *_gradient_claims(gradients),
        ],
        {
            "largest difference": {
                "||mu||": [m for m, _ in rows],
                "difference": [difference for _, difference in rows],
            },
            f"|expected gradient in h| at h = {_start(config):g}": gradients,
        },
        [panel, _gradient_panel(gradients)],
        {"worst_difference": worst},
    )


def _start(config: TheoryConfig) -> float:
    """Return an h on the other side of w = 1/2, at the same distance."""
    return float(log_odds(torch.tensor(1.0 - config.w, dtype=torch.float64)))


def _gradients(config: TheoryConfig) -> dict[str, list[float]]:
    """Return sizes of gradients at each ||mu||, and the steps of descent over all t."""
    h = torch.tensor([_start(config)], dtype=torch.float64)
    w_h = float(weight(h))
    columns: dict[str, list[float]] = {"||mu||": sorted(config.bridge.gradients)}
    for m in columns["||mu||"]:
        m_t = m / math.e
        values = {
            OVER_T: float(over_all_t(config.w, m, h)),
            IDENTITY: 2.0 * (w_h - config.w) * resolved_share(w_h, m),
            LIMIT: 2.0 * (w_h - config.w),
            AT_T: 2.0 * m_t**2 * float(at_one_t(config.w, m_t, h)[0]),
            STEPS: _steps(config, m, h),
        }
        for name, value in values.items():
            columns.setdefault(name, []).append(abs(value))
    return columns


def _steps(config: TheoryConfig, m: float, h: torch.Tensor) -> int:
    """Return the steps of length 1 after which 1 % of the distance in w is left."""
    start = abs(float(weight(h)) - config.w)
    for step in range(MAX_STEPS):
        if abs(float(weight(h)) - config.w) <= 0.01 * start:
            return step
        h = h - over_all_t(config.w, m, h)
    return MAX_STEPS


def _gradient_claims(gradients: dict[str, list[float]]) -> list[Claim]:
    m, over_t, steps = gradients["||mu||"], gradients[OVER_T], gradients[STEPS]
    off = max(abs(a - b) for a, b in zip(over_t, gradients[IDENTITY], strict=True))
    rises = all(a <= b + TOLERANCE for a, b in pairwise(over_t))
    at_most = all(a <= b + TOLERANCE for a, b in zip(over_t, gradients[LIMIT], strict=True))
    return [
        Claim(f"gradient over all t and resolved share differ by {off:.1e} at most", off <= 1e-9),
        Claim(
            f"gradient over all t rises with ||mu||, from {over_t[0]:.3g} at {m[0]:g} to "
            f"{over_t[-1]:.3g} at {m[-1]:g} (limit {gradients[LIMIT][-1]:.3g}); at t = 1 it is "
            f"{gradients[AT_T][-1]:.1e} there",
            rises and at_most,
        ),
        Claim(
            f"1 % of the way is left after {steps[0]:g} steps at ||mu|| = {m[0]:g}, and after "
            f"{steps[-1]:g} at {m[-1]:g}",
            steps == sorted(steps, reverse=True) and steps[0] < MAX_STEPS,
        ),
    ]


def _gradient_panel(gradients: dict[str, list[float]]) -> Panel:
    m, curves = gradients["||mu||"], {}
    for name in (OVER_T, AT_T):
        points = [(x, y) for x, y in zip(m, gradients[name], strict=True) if y > 1e-12]
        curves[name] = Curve(points)
    curves[LIMIT] = Curve(list(zip(m, gradients[LIMIT], strict=True)), is_reference=True)
    return Panel("expected gradient in h", "||mu||", "|dL/dh|", curves)
