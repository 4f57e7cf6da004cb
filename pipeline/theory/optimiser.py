"""Experiment C: how fast descent converges, and where it is stuck."""

import math
from itertools import islice

import pandas as pd
import torch
from torch import Tensor

from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import NUM_ERRORS, Claim, Outcome, Panel
from pipeline.theory.replicates import scores
from spire_core.mixture.estimators import fixed_t_gradient, iterates
from spire_core.mixture.expected_loss import expected_path, rate
from spire_core.mixture.two_components import draw_projected, time_of
from spire_core.rng import numpy_generator

SEPARATIONS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0)  # m_t of the rates
RATE_N, RATE_REPLICATES, RATE_D = 2000, 50, 256
STEPS = 200


def run(config: TheoryConfig) -> Outcome:
    """Return rates against m_t."""
    rates = pd.DataFrame([_rate(config, m_t, i) for i, m_t in enumerate(SEPARATIONS)])
    off = rates["standard errors off"].abs().max()
    stuck = float(rates.loc[rates["gap left"] > 0.5, "m_t"].min())
    slow = 1.0 - rates.set_index("m_t")[["on data", "predicted factor"]]
    return Outcome(
        f"C: convergence at w = {config.w:g}",
        [
            Claim(
                f"the factor per step on data is at most {off:.1f} standard errors off",
                off <= NUM_ERRORS,
            ),
            Claim(f"from m_t = {stuck:g} on, {STEPS} steps leave over half of the way"),
        ],
        {"rates": rates},
        [Panel("convergence", "1 - factor", slow, ["on data"], ["predicted factor"])],
        {"stuck_m_t": stuck},
    )


def _rate(config: TheoryConfig, m_t: float, point: int) -> dict[str, float]:
    """Return predicted and measured factors per step, and the gap that the steps leave."""
    path, predicted = expected_path(config.w, m_t, STEPS), 1.0 - rate(config.w, m_t)
    found = scores({"on data": _measured_factors(config, m_t, point)})
    off = (found["on data"] - predicted) / found["on data +-"]
    gap = abs((path[-1] - config.w) / (path[0] - config.w))
    return {
        "m_t": m_t,
        "predicted factor": predicted,
        **found,
        "standard errors off": off,
        "gap left": gap,
    }


def _measured_factors(config: TheoryConfig, m_t: float, point: int) -> Tensor:
    """Return the factor (R,) of w_k - w_inf per step with fixed draws, NaN where it is stuck."""
    m = math.sqrt(RATE_D)
    generator = numpy_generator(config.seed, "theory_rate", point)
    y = draw_projected(config.w, m, (RATE_REPLICATES, RATE_N), generator)
    gradient = fixed_t_gradient(y, m, time_of(m_t, m), generator, is_fresh=False)
    w = torch.cat(list(islice(iterates(gradient, 2.0 * m_t**2, len(y)), STEPS)), 1)
    left = (w - w[:, -1:]).abs()
    near = (left[:, 1:] > 1e-9) & (left[:, :-1] < 1e-4)
    ratio = (left[:, 1:] / left[:, :-1].clamp(min=1e-300)).where(near, torch.nan)
    has_arrived = ((left[:, -2] < 1e-9) & near.any(1)).all()
    return ratio.nanmean(1).where(has_arrived, torch.nan)
