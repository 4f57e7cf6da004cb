"""Experiment F: the gradient of the denoising loss over all t is the gradient of -log q."""

import math

import pandas as pd
import torch
from torch import Tensor

from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import ROUNDING, Claim, Outcome, Panel
from spire_core.mixture import expected_loss
from spire_core.mixture.two_components import draw_projected, log_odds, weight
from spire_core.rng import numpy_generator

SEPARATIONS, N = (0.3, 1.0, 2.0, 4.0, 6.0), 100  # ||mu||, and samples at each
GRADIENTS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # ||mu|| at which sizes of gradients are compared
TOLERANCE = 1e-6
LIMIT, IDENTITY = "2 w_h - 2 w", "2 (w_h - w) times resolved share"
OVER_T, AT_T = "over all t", "at t = 1"
SIDES = "d/dw of -log q_w(x0)", "integral of dL_t/dw over t"


def run(config: TheoryConfig) -> Outcome:
    """Return the difference of the two sides, and how the gradient depends on ||mu||."""
    sides = pd.concat([_sides(config, m, i) for i, m in enumerate(SEPARATIONS)])
    off = (sides[SIDES[0]] - sides[SIDES[1]]).abs()
    differences = off.groupby(sides["||mu||"]).max().rename("difference").reset_index()
    worst = float(off.max())
    # An h on the other side of w = 1/2, at the same distance.
    start = log_odds(torch.tensor([1.0 - config.w], dtype=torch.float64))
    gradients = pd.DataFrame([_gradients(config.w, m, start) for m in GRADIENTS])
    points, sizes = sides.set_index(SIDES[0]), gradients.set_index("||mu||")
    return Outcome(
        f"F: denoising over all t is maximum likelihood, {N} samples a separation",
        [
            Claim(f"both sides differ by {worst:.1e} per sample at most", worst <= TOLERANCE),
            *gradient_claims(gradients),
        ],
        {
            "largest difference": differences,
            f"|expected gradient in h| at h = {float(start):g}": gradients,
        },
        [
            Panel("one point a sample", SIDES[1], points, SIDES[1:], (), "linear", False),
            Panel("expected gradient in h", "|dL/dh|", sizes, [OVER_T, AT_T], [LIMIT]),
        ],
        {"worst_difference": worst},
    )


def _sides(config: TheoryConfig, m: float, point: int) -> pd.DataFrame:
    """Return both gradients in w, one row a sample, each at a weight of its own."""
    generator = numpy_generator(config.seed, "theory_bridge", point)
    y = draw_projected(config.w, m, (1, N), generator)[0]
    w = torch.from_numpy(generator.uniform(0.02, 0.98, N))
    found = expected_loss.likelihood_gradient(y, w, m), expected_loss.denoising_gradient(y, w, m)
    return pd.DataFrame({"||mu||": m, SIDES[0]: found[0].numpy(), SIDES[1]: found[1].numpy()})


def _gradients(w: float, m: float, h: Tensor) -> dict[str, float]:
    """Return sizes of gradients at h."""
    w_h, m_t = float(weight(h)), m / math.e
    return {
        "||mu||": m,
        OVER_T: abs(float(expected_loss.over_all_t(w, m, h))),
        IDENTITY: abs(2.0 * (w_h - w) * expected_loss.resolved_share(w_h, m)),
        LIMIT: abs(2.0 * (w_h - w)),
        AT_T: abs(2.0 * m_t**2 * float(expected_loss.at_one_t(w, m_t, h)[0])),
    }


def gradient_claims(gradients: pd.DataFrame) -> list[Claim]:
    """Return whether the gradient over all t is its closed form, and grows with ||mu||."""
    off = (gradients[OVER_T] - gradients[IDENTITY]).abs().max()
    first, last = gradients.iloc[0], gradients.iloc[-1]
    rises = (gradients[OVER_T].diff().dropna() >= -TOLERANCE).all()
    is_below = (gradients[OVER_T] <= gradients[LIMIT] + TOLERANCE).all()
    return [
        Claim(
            f"gradient over all t and resolved share differ by {off:.1e} at most",
            off <= ROUNDING,
        ),
        Claim(
            f"gradient over all t rises with ||mu||, from {first[OVER_T]:.3g} at "
            f"{first['||mu||']:g} to {last[OVER_T]:.3g} at {last['||mu||']:g} (limit "
            f"{last[LIMIT]:.3g}); at t = 1 it is {last[AT_T]:.1e} there",
            rises and is_below,
        ),
    ]
