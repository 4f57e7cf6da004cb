"""Experiment I: the weights of a client on several embeddings that are fixed and exact.

Each embedding is a Gaussian component. `SHARES` are the weights that SPIRE takes: each image counts
for the component that explains it best. With p the probabilities of being the best, their mean
tends to p, which is C pi of experiment H, and not to the weights pi.
"""

from collections.abc import Mapping
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import NUM_ERRORS, Claim, Outcome, Panel
from pipeline.theory.replicates import draw_replicates, errors_off, scores, wide
from spire_core.mixture import k_components
from spire_core.rng import numpy_generator
from spire_core.training.several import PRIOR

K, CONCENTRATION = 4, 4.0  # a client's weights are one Dirichlet draw
DISTANCES = (2.0, 4.0, 8.0)  # from mean to mean, in standard deviations
NUMS, REPLICATES, STEPS = (16, 64, 256, 1024), 400, 300
LIKELIHOOD, SHARES, EXACT = "maximum likelihood", "shares", "shares, exact"
CRAMER_RAO, GAP = "Cramer-Rao", "below the maximum"
BEST, MOST, CLOSE = 0.95, 1.1, 1e-3  # times Cramer-Rao; of the log likelihood of a sample


def run(config: TheoryConfig) -> Outcome:
    """Return n * MSE of the weights by likelihood and by shares, for near and far components."""
    generator = numpy_generator(config.seed, "theory_fixed_codes")
    weights = torch.from_numpy(generator.dirichlet([CONCENTRATION] * K))
    rows = pd.DataFrame([_point(config, weights, *place) for place in product(DISTANCES, NUMS)])
    ends = {name: f", {name}" for name in (LIKELIHOOD, SHARES, CRAMER_RAO)}
    frame = wide(rows, "n", "distance", "{:g} apart", ends)
    bounds = [name for name in map(str, frame) if name.endswith(CRAMER_RAO)]
    measured = [name for name in map(str, frame) if name not in bounds]
    return Outcome(
        f"I: weights of {K} fixed embeddings, {config.replicates or REPLICATES} replicates",
        claims(rows),
        {"n * MSE of the weights": rows},
        [Panel("weights on fixed embeddings", "n * MSE", frame, measured, bounds)],
        {"shares_bias": float(rows[SHARES].iloc[len(NUMS) - 1])},
    )


def _point(config: TheoryConfig, weights: Tensor, distance: float, n: int) -> dict[str, float]:
    """Return both errors for orthogonal means, and what is left to the largest likelihood."""
    places = DISTANCES.index(distance), NUMS.index(n)
    means = k_components.reduced_means(torch.eye(K, dtype=torch.float64) * distance / 2.0**0.5)
    generator = numpy_generator(config.seed, "theory_fixed_codes_exact", places[0])
    information = k_components.drawn_information(weights, means, generator)
    p = _best(k_components.draw(weights, means, (1, 1_000_000), generator)[0], means)[:, 0]

    def measure(num: int, generator: np.random.Generator) -> Mapping[str, Tensor]:
        x, _ = k_components.draw(weights, means, (num, n), generator)
        densities = k_components.log_densities(x, means).softmax(0)
        pi = k_components.likelihood_weights(densities, STEPS)
        # The log likelihood is concave in pi, so its slopes bound what is left to its maximum.
        slopes = (densities / (pi[..., None] * densities).sum(0)).mean(-1)
        shares = (n * _best(x, means) + PRIOR) / (n + K * PRIOR)
        found = {LIKELIHOOD: pi, SHARES: shares}
        errors = {k: n * (v - weights[:, None]).square().sum(0) for k, v in found.items()}
        return errors | {GAP: slopes.amax(0) - 1.0}

    stream = ("theory_fixed_codes_data", 100 * places[0] + places[1])
    found = draw_replicates(config, REPLICATES, n * K, stream, measure)
    worst, kept = float(found.pop(GAP).max()), n / (n + K * PRIOR)
    bias = kept * p + (1.0 - kept) / K - weights
    return {
        "distance": distance,
        "n": n,
        **scores(found),
        EXACT: n * float(bias.square().sum()) + kept**2 * float(1.0 - p.square().sum()),
        CRAMER_RAO: n * k_components.simplex_cramer_rao(information, n),
        GAP: worst,
    }


def _best(x: Tensor, means: Tensor) -> Tensor:
    """Return the share of samples (r, R, n) that each component explains best, (K, R)."""
    best = k_components.log_densities(x, means).argmax(0)
    return torch.stack([(best == k).double().mean(-1) for k in range(len(means))])


def claims(rows: pd.DataFrame) -> list[Claim]:
    """Return whether likelihood finds the weights as Cramer-Rao says, and shares as their form."""
    last = rows[rows["n"] == NUMS[-1]]
    ratio, error = last[LIKELIHOOD] / last[CRAMER_RAO], last[f"{LIKELIHOOD} +-"] / last[CRAMER_RAO]
    slack, off = NUM_ERRORS * error, errors_off(rows, SHARES, EXACT)
    near, far = last.iloc[0], last.iloc[-1]
    return [
        Claim(
            f"EM on the weights ends {rows[GAP].max():.1e} below the largest log likelihood of a "
            "sample at most, by its slopes",
            rows[GAP].max() <= CLOSE,
        ),
        Claim(
            f"maximum likelihood has {ratio.min():.3f} to {ratio.max():.3f} of Cramer-Rao at n = "
            f"{NUMS[-1]}, in {BEST:g}..{MOST:g}",
            ((ratio >= BEST - slack) & (ratio <= MOST + slack)).all(),
        ),
        Claim(
            f"shares of images have the error of n |C pi - pi|^2 + 1 - |C pi|^2 "
            f"({off:.1f} standard errors at most)",
            off <= NUM_ERRORS,
        ),
        Claim(
            f"at n = {NUMS[-1]} shares have n * MSE {near[SHARES]:.3g} where embeddings are "
            f"{near['distance']:g} apart, maximum likelihood {near[LIKELIHOOD]:.3g}; "
            f"{far[SHARES]:.3g} and {far[LIKELIHOOD]:.3g} where they are {far['distance']:g} apart"
        ),
    ]
