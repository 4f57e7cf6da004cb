"""Experiment C: how fast descent converges, where it is stuck, and weights near 0 and 1."""

import math
from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import NUM_ERRORS, Claim, Curve, Outcome, Panel, score
from spire_core.config.checks import require
from spire_core.mixture.descent import DescentConfig, fixed_t_gradient, iterates
from spire_core.mixture.estimators import maximum_likelihood, moment
from spire_core.mixture.exact_errors import expected_path, linear_factor
from spire_core.mixture.two_components import draw_projected, time_of
from spire_core.rng import numpy_generator

LAST = 20  # iterates: their mean is the estimate, their steps are the swing
ROUNDING = 1e-9  # of a swing
RATE_N, RATE_REPLICATES = 2000, 50
RATE_SEPARATION = 4.0  # ||mu|| of the rates, as a multiple of the common one
VARIANTS = {
    "odds": DescentConfig(),
    "weight, damped": DescentConfig(parameter="weight"),
    "weight, full step": DescentConfig(parameter="weight", is_damped=False),
}


def check_optimiser(config: TheoryConfig) -> None:
    """Raise ConfigError if ||mu|| does not exceed m_t, or for fewer steps than count."""
    group = config.optimiser
    require(
        group.steps >= LAST,
        f"optimiser.steps of at least {LAST}",
        group.steps,
        "as many of the last steps are averaged",
    )
    require(
        config.w != expected_path(config.w, group.m_t, 0)[0],
        "a weight w that descent does not start from",
        config.w,
        "there would be no gap to close, so choose another",
    )
    m = config.c * math.sqrt(group.d)
    time_of(group.m_t, m)
    for m_t in group.separations:
        time_of(m_t, RATE_SEPARATION * m)


def run_optimiser(config: TheoryConfig) -> Outcome:
    """Return rates against m_t, and errors and swings of each parametrisation against w."""
    rates = _rates(config)
    ends, clipped = _ends(config)
    stuck = next(
        (m for m, kept in zip(rates["m_t"], rates["gap left"], strict=True) if kept > 0.5), math.inf
    )
    claims = [
        _rate_claim(rates["standard errors off"]),
        Claim(
            f"from m_t = {stuck:g} on, {config.optimiser.steps} steps leave over half of the way"
            if stuck < math.inf
            else f"{config.optimiser.steps} steps leave less than half of the way at every m_t",
        ),
        Claim(
            f"the moment leaves [0, 1] in up to {clipped:.0%} of the replicates of one w before it "
            "is clipped; no other estimate can",
        ),
        _swing_claim(max(ends["swing, weight, full step"]), max(ends["swing, weight, damped"])),
    ]
    return Outcome(
        "optimiser",
        f"C: convergence at w = {config.w:g}, and all w at m_t = {config.optimiser.m_t:g}",
        claims,
        {"rates": rates, "near the ends, as n * MSE": ends},
        [_rate_panel(rates), _end_panel(ends)],
        {"stuck_m_t": stuck},
    )


def _rate_claim(standard_errors: Sequence[float]) -> Claim:
    """Return the verdict on the factors, a note if descent is stuck at every m_t."""
    known = [abs(off) for off in standard_errors if math.isfinite(off)]
    if not known:
        return Claim("no factor per step is measured on data, because descent is stuck everywhere")
    off = max(known)
    return Claim(
        f"the factor per step on data is at most {off:.1f} standard errors off", off <= NUM_ERRORS
    )


def _swing_claim(full: float, damped: float) -> Claim:
    """Return the verdict on damping, a note if no w is so near an end that the full step swings."""
    if full <= ROUNDING:
        return Claim("the full step in w swings at no w, so that there is nothing to damp")
    text = f"the full step in w swings by {full:.3f} a step at its worst w; damped, by {damped:.1e}"
    return Claim(text, damped < 0.1 * full)


def _rates(config: TheoryConfig) -> dict[str, list[float]]:
    """Return predicted and measured factors per step, and the gap that the steps leave."""
    group, m = config.optimiser, config.c * math.sqrt(config.optimiser.d) * RATE_SEPARATION
    names = ("m_t", "predicted factor", "on data", "on data +-", "standard errors off", "gap left")
    rows = []
    for point, m_t in enumerate(sorted(group.separations)):
        path = expected_path(config.w, m_t, group.steps)
        gap = abs((path[-1] - config.w) / (path[0] - config.w))
        predicted = linear_factor(config.w, m_t)
        mean, error = _measured_factor(config, m, m_t, point)
        rows.append((m_t, predicted, mean, error, (mean - predicted) / error, gap))
    return {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def _measured_factor(config: TheoryConfig, m: float, m_t: float, point: int) -> tuple[float, float]:
    """Return the mean factor of w_k - w_inf per step with fixed draws, NaN where it is stuck."""
    generator = numpy_generator(config.seed, "theory_rate", point)
    y = draw_projected(config.w, m, (RATE_REPLICATES, RATE_N), generator)
    gradient = fixed_t_gradient(y, m, time_of(m_t, m), False, generator)
    path = iterates(gradient, 2.0 * m_t**2, len(y), DescentConfig(is_fresh=False))
    w = torch.cat(list(islice(path, config.optimiser.steps)), 1)
    left = (w - w[:, -1:]).abs()
    near = (left[:, 1:] > 1e-9) & (left[:, :-1] < 1e-4)
    if not bool(((left[:, -2] < 1e-9) & near.any(1)).all()):
        return math.nan, math.nan
    ratio = (left[:, 1:] / left[:, :-1].clamp(min=1e-300)).where(near, torch.nan)
    return score(ratio.nanmean(1))


def _ends(config: TheoryConfig) -> tuple[dict[str, list[float]], float]:
    """Return errors and swings at each w, and the largest share of moments outside [0, 1]."""
    group, clipped = config.optimiser, 0.0
    columns: dict[str, list[float]] = {"w": list(group.weights)}
    for point, w in enumerate(group.weights):
        estimates, swings, unclipped = _estimates(config, w, point)
        clipped = max(clipped, float(((unclipped < 0.0) | (unclipped > 1.0)).double().mean()))
        for name, e in estimates.items():
            columns.setdefault(name, []).append(group.n * score((e - w) ** 2).mean)
        for name, swing in swings.items():
            columns.setdefault(f"swing, {name}", []).append(swing)
    return columns, clipped


def _estimates(
    config: TheoryConfig, w: float, point: int
) -> tuple[dict[str, Tensor], dict[str, float], Tensor]:
    group, m = config.optimiser, config.c * math.sqrt(config.optimiser.d)
    generator = numpy_generator(config.seed, "theory_ends", point)
    y = draw_projected(w, m, (group.replicates, group.n), generator)
    estimates, swings = {}, {}
    for name, how in VARIANTS.items():
        gradient = fixed_t_gradient(y, m, time_of(group.m_t, m), False, generator)
        path = iterates(gradient, 2.0 * group.m_t**2, len(y), how)
        last = torch.cat(list(islice(path, group.steps - LAST, group.steps)), 1)
        estimates[name] = last.mean(1)
        swings[name] = float(last.diff(dim=1).abs().mean())
    estimates["maximum likelihood"] = maximum_likelihood(y, m)
    unclipped = moment(y, m)
    estimates["moment, clipped"] = unclipped.clamp(0.0, 1.0)
    return estimates, swings, unclipped


def _rate_panel(rates: dict[str, list[float]]) -> Panel:
    def rate(factors: list[float]) -> list[tuple[float, float]]:
        pairs = zip(rates["m_t"], factors, strict=True)
        return [(m_t, 1.0 - factor) for m_t, factor in pairs if np.isfinite(factor)]

    curves = {
        "on data": Curve(
            rate(rates["on data"]), [e for e in rates["on data +-"] if np.isfinite(e)]
        ),
        "predicted": Curve(rate(rates["predicted factor"]), is_reference=True),
    }
    return Panel("convergence at one t", "m_t", "1 - factor per step", curves)


def _end_panel(ends: dict[str, list[float]]) -> Panel:
    curves = {}
    for name in VARIANTS:
        swings = [max(swing, ROUNDING) for swing in ends[f"swing, {name}"]]
        curves[name] = Curve(list(zip(ends["w"], swings, strict=True)))
    return Panel("fixed draws, last steps", "w", "mean |change| a step", curves, "logy")
