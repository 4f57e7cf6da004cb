"""Experiment F: the gradient of the denoising loss over all t is the gradient of -log q."""

import torch

from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import Claim, Curve, Outcome, Panel
from spire_core.mixture.bridge import denoising_gradient, likelihood_gradient
from spire_core.mixture.two_components import draw_projected
from spire_core.rng import numpy_generator

TOLERANCE = 1e-6


def run_bridge(config: TheoryConfig) -> Outcome:
    """Return the largest difference of the two sides over samples and weights, at each ||mu||."""
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
    labels = ("one point a sample", "d/dw of -log q_w(x0)", "integral of dL_t/dw over t")
    panel = Panel(*labels, curves, "linear", is_joined=False)
    return Outcome(
        "bridge",
        f"F: denoising over all t is maximum likelihood, {config.bridge.n} samples a separation",
        [Claim(f"both sides differ by {worst:.1e} per sample at most", worst <= TOLERANCE)],
        {
            "largest difference": {
                "||mu||": [m for m, _ in rows],
                "difference": [difference for _, difference in rows],
            }
        },
        [panel],
        {"worst_difference": worst},
    )
