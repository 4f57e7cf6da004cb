"""Experiment C: how fast descent converges, where it is stuck, and weights near 0 and 1."""

import math
from itertools import islice

import pandas as pd
import torch
from torch import Tensor

from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import NUM_ERRORS, ROUNDING, Claim, Outcome, Panel
from pipeline.theory.replicates import scores
from spire_core.mixture.estimators import fixed_t_gradient, iterates, maximum_likelihood, moment
from spire_core.mixture.expected_loss import expected_path, rate
from spire_core.mixture.two_components import draw_projected, time_of
from spire_core.rng import numpy_generator

SEPARATIONS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0)  # m_t of the rates
RATE_N, RATE_REPLICATES, RATE_D = 2000, 50, 256
WEIGHTS = (0.0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 1.0)
REPLICATES, N, D, M_T = 200, 200, 16, 0.75  # of the ends
STEPS, LAST = 200, 20  # the mean of the last steps is the estimate, their size is the swing
VARIANTS = {  # in_weight, is_damped
    "odds": (False, True),
    "weight, damped": (True, True),
    "weight, full step": (True, False),
}


def run(config: TheoryConfig) -> Outcome:
    """Return rates against m_t, and errors and swings of each parametrisation against w."""
    rates = pd.DataFrame([_rate(config, m_t, i) for i, m_t in enumerate(SEPARATIONS)])
    ends = pd.DataFrame([_end(config, w, i) for i, w in enumerate(WEIGHTS)])
    clipped = ends.pop("clipped").max()
    off = rates["standard errors off"].abs().max()
    stuck = float(rates.loc[rates["gap left"] > 0.5, "m_t"].min())
    full, damped = ends["swing, weight, full step"].max(), ends["swing, weight, damped"].max()
    slow = 1.0 - rates.set_index("m_t")[["on data", "predicted factor"]]
    swings = ends.set_index("w").filter(like="swing").clip(lower=ROUNDING)
    names = [f"swing, {name}" for name in VARIANTS]
    return Outcome(
        f"C: convergence at w = {config.w:g}, and all w at m_t = {M_T:g}",
        [
            Claim(
                f"the factor per step on data is at most {off:.1f} standard errors off",
                off <= NUM_ERRORS,
            ),
            Claim(f"from m_t = {stuck:g} on, {STEPS} steps leave over half of the way"),
            Claim(
                f"the moment leaves [0, 1] in up to {clipped:.0%} of the replicates of one w "
                "before it is clipped; no other estimate can",
            ),
            Claim(
                f"the full step in w swings by {full:.3f} a step at its worst w; damped, by "
                f"{damped:.1e}",
                damped < 0.1 * full,
            ),
        ],
        {"rates": rates, "near the ends, as n * MSE": ends},
        [
            Panel("convergence", "1 - factor", slow, ["on data"], ["predicted factor"]),
            Panel("fixed draws, last steps", "|change| a step", swings, names, scale="logy"),
        ],
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


def _end(config: TheoryConfig, w: float, point: int) -> dict[str, float]:
    """Return errors and swings at one w, and the share of moments outside [0, 1]."""
    m = math.sqrt(D)
    generator = numpy_generator(config.seed, "theory_ends", point)
    y = draw_projected(w, m, (config.replicates or REPLICATES, N), generator)
    estimates, swings = {}, {}
    for name, (in_weight, is_damped) in VARIANTS.items():
        gradient = fixed_t_gradient(y, m, time_of(M_T, m), generator, is_fresh=False)
        path = iterates(gradient, 2.0 * M_T**2, len(y), in_weight, is_damped)
        last = torch.cat(list(islice(path, STEPS - LAST, STEPS)), 1)
        estimates[name] = last.mean(1)
        swings[f"swing, {name}"] = float(last.diff(dim=1).abs().mean())
    estimates["maximum likelihood"] = maximum_likelihood(y, m)
    unclipped = moment(y, m)
    estimates["moment, clipped"] = unclipped.clamp(0.0, 1.0)
    errors = {name: N * float(((e - w) ** 2).mean()) for name, e in estimates.items()}
    clipped = float(((unclipped < 0.0) | (unclipped > 1.0)).double().mean())
    return {"w": w, **errors, **swings, "clipped": clipped}
