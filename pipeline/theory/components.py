"""Experiment D: the weights of K components, against Cramer-Rao and affine least squares."""

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import NUM_ERRORS, Claim, Curve, Outcome, Panel, Score, over_replicates
from spire_core.config.checks import require
from spire_core.errors import ConfigError
from spire_core.mixture.k_component_references import (
    affine_error,
    affine_weights,
    likelihood_weights,
    simplex_cramer_rao,
)
from spire_core.mixture.k_components import (
    descend_logits_all_t,
    descend_logits_fixed_t,
    draw_with_shares,
    reduced_means,
)
from spire_core.mixture.two_components import normals
from spire_core.rng import numpy_generator

OVER_T, AT_T = "descent over all t", "descent at one t"
LIKELIHOOD, AFFINE = "maximum likelihood", "affine least squares"
CRAMER_RAO, FORM = "Cramer-Rao", f"{AFFINE}, form"
LEAST, MOST = 0.95, 1.15  # times Cramer-Rao; averages of few iterates keep some noise


def run_components(config: TheoryConfig) -> Outcome:
    """Return n * MSE of the weights for each shape of means, and its ratio to Cramer-Rao."""
    settings = component_settings(config)
    rows = {
        name: _point(config, means, weights, i) for i, (name, means, weights) in enumerate(settings)
    }
    columns: dict[str, list] = {"means": list(rows)}
    for key in (CRAMER_RAO, LIKELIHOOD, OVER_T, AT_T, AFFINE, FORM):
        columns[key] = [row[key].mean for row in rows.values()]
        if key not in (CRAMER_RAO, FORM):
            columns[f"{key} +-"] = [row[key].error for row in rows.values()]
    ratios = {name: row[OVER_T].mean / row[CRAMER_RAO].mean for name, row in rows.items()}
    return Outcome(
        "components",
        f"D: K components, n = {config.components.n}, {config.components.replicates} replicates",
        [_claim(name, row) for name, row in rows.items()],
        {"n * MSE of the weights": columns},
        [_panel(rows)],
        {"worst_ratio": max(ratios.values())},
    )


def _point(config: TheoryConfig, means: Tensor, weights: Tensor, point: int) -> dict[str, Score]:
    """Return the scores of all estimates; descent over all t has the most replicates."""
    group, k = config.components, len(weights)
    many = (config.seed, "theory_components", point)
    few = (config.seed, "theory_components_slower", point)
    scores = over_replicates(
        group.replicates, group.n * k, many, partial(_faster, config, means, weights)
    ) | over_replicates(group.slower, group.n * k, few, partial(_slower, config, means, weights))
    scores.setdefault(AFFINE, Score(math.nan, math.nan))
    generator = numpy_generator(config.seed, "theory_information", point)
    bound = group.n * simplex_cramer_rao(weights, means, group.n, generator)
    form = group.n * affine_error(weights, means, group.n)
    return scores | {CRAMER_RAO: Score(bound, 0.0), FORM: Score(form, 0.0)}


def _faster(config, means, weights, num: int, generator: np.random.Generator) -> dict[str, Tensor]:
    group = config.components
    x, shares = draw_with_shares(weights, means, (num, group.n), generator)
    estimates = {OVER_T: descend_logits_all_t(x, means, group.steps, group.averaged, generator)}
    if means.shape[1] == len(weights) - 1:
        estimates[AFFINE] = affine_weights(x, means)
    return _paired(config, estimates, shares, weights)


def _slower(config, means, weights, num: int, generator: np.random.Generator) -> dict[str, Tensor]:
    group, t = config.components, -math.log(config.components.signal)
    x, shares = draw_with_shares(weights, means, (num, group.n), generator)
    steps = (group.steps, group.averaged)
    estimates = {
        LIKELIHOOD: likelihood_weights(x, means),
        AT_T: descend_logits_fixed_t(x, means, t, *steps, generator),
    }
    return _paired(config, estimates, shares, weights)


def _paired(config, estimates, shares: Tensor, weights: Tensor) -> dict[str, Tensor]:
    """Return n * squared errors, paired with those of the components' shares in the same draws.

    The shares' error is (1 - sum_k pi_k^2) / n on average, so that the difference to it, plus this
    average, has the same mean and less variance.
    """
    n = config.components.n
    known = float(1.0 - weights.square().sum())
    of_shares = n * (shares - weights[:, None]).square().sum(0)
    return {
        name: n * (pi - weights[:, None]).square().sum(0) - of_shares + known
        for name, pi in estimates.items()
    }


def _claim(name: str, row: dict[str, Score]) -> Claim:
    error, bound = row[OVER_T], row[CRAMER_RAO].mean
    ratio = error.scaled(1.0 / bound)
    note = ""
    if math.isnan(row[AFFINE].mean):
        note = (
            f"; the affine form gives {row[FORM].mean:.3f}, but a mean does not identify "
            "these weights"
        )
    slack = NUM_ERRORS * ratio.error
    return Claim(
        f"{name}: n * MSE {error.mean:.3f} +- {error.error:.3f}, {ratio.mean:.3f} +- "
        f"{ratio.error:.3f} of Cramer-Rao, in {LEAST:g}..{MOST:g}{note}",
        LEAST - slack <= ratio.mean <= MOST + slack,
    )


def _panel(rows: dict[str, dict[str, Score]]) -> Panel:
    curves = {}
    for key in (OVER_T, AT_T, LIKELIHOOD, AFFINE, CRAMER_RAO, FORM):
        points = [(i, row[key].mean) for i, row in enumerate(rows.values())]
        errors = [row[key].error for row in rows.values()]
        curves[key] = Curve(points, errors, key in (CRAMER_RAO, FORM))
    return Panel("weights of K components", "", "n * MSE", curves, "logy", ticks=list(rows))


def component_settings(config: TheoryConfig) -> list[tuple[str, Tensor, Tensor]]:
    """Return name, reduced means (K, r) and true weights (K,) of each shape.

    ConfigError if the means cannot be used, or if they leave the weights open. The criterion is a
    Cramer-Rao bound of the squared error above 1, since even a guess of equal weights is off by
    less than 1 - 1/K. Distinct means, also collinear ones, identify their weights in the limit of
    many samples, because translates of a Gaussian are linearly independent.
    """
    group = config.components
    shapes = [(shape, _shape_means(shape, config, i)) for i, shape in enumerate(group.shapes)]
    if group.means:
        if len({len(row) for row in group.means}) > 1:
            raise ConfigError("expected components.means of one length each: they are points")
        shapes = [("given", torch.tensor(group.means, dtype=torch.float64))]
    require(len(shapes) > 0, "entries of components.shapes", "none", "add one")
    settings = []
    for point, (name, means) in enumerate(shapes):
        generator = numpy_generator(config.seed, "theory_weights", point)
        weights = torch.from_numpy(generator.dirichlet([group.concentration] * len(means)))
        require(
            bool((weights > 0).all()),
            f"weights of {name} above 0",
            "one that is 0",
            "raise components.concentration",
        )
        reduced = reduced_means(means)
        bound = simplex_cramer_rao(weights, reduced, group.n, generator)
        if bound > 1.0:
            raise ConfigError(
                f"expected means that identify the weights, got {name} (K = {len(means)}, rank "
                f"{reduced.shape[1]}), where {group.n} samples leave a squared error of at least "
                f"{bound:.3g}: move the means apart or raise components.n"
            )
        settings.append((name, reduced, weights))
    return settings


def _shape_means(shape: str, config: TheoryConfig, point: int) -> Tensor:
    """Return the means (K, d) of a shape such as `circle-8`; ConfigError if there is none such."""
    group = config.components
    kind, _, number = shape.rpartition("-")
    if kind not in ("general", "orthogonal", "circle") or not number.isdecimal() or int(number) < 2:
        raise ConfigError(
            f"expected general-K, orthogonal-K or circle-K with K of at least 2, got {shape!r}: "
            "one component has no weight to recover"
        )
    k = int(number)
    if kind == "general":
        generator = numpy_generator(config.seed, "theory_means", point)
        return normals(generator, k, group.d) * (group.distance / math.sqrt(2.0 * group.d))
    if kind == "orthogonal":
        return torch.eye(k, dtype=torch.float64) * (group.distance / math.sqrt(2.0))
    angle = 2.0 * math.pi / k * torch.arange(k, dtype=torch.float64)
    radius = 0.5 * group.distance / math.sin(math.pi / k)
    return radius * torch.stack([torch.cos(angle), torch.sin(angle)], 1)
