"""Experiment D: the weights of K components, against Cramer-Rao."""

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import NUM_ERRORS, Claim, Outcome, Panel
from pipeline.theory.replicates import draw_replicates, scores
from spire_core.mixture import k_components
from spire_core.mixture.two_components import normals
from spire_core.rng import numpy_generator

SHAPES = (("general", 3), ("general", 5), ("general", 10), ("orthogonal", 3), ("orthogonal", 5))
SHAPES += (("orthogonal", 10), ("circle", 5), ("circle", 8))
D, DISTANCE = 16, 3.0  # from mean to mean, in standard deviations
CONCENTRATION = 4.0  # the true weights are one Dirichlet draw a shape
N, STEPS, AVERAGED = 300, 130, 80
REPLICATES, SLOWER = 1000, 60  # of descent over all t; of likelihood
OVER_T, LIKELIHOOD, CRAMER_RAO = "descent over all t", "maximum likelihood", "Cramer-Rao"
Estimate = Callable[[Tensor, np.random.Generator], Tensor]
LEAST, MOST = 0.95, 1.15  # times Cramer-Rao; averages of few iterates keep some noise


def run(config: TheoryConfig) -> Outcome:
    """Return n * MSE of the weights for each shape of means, and its ratio to Cramer-Rao."""
    rows = [_point(config, kind, k, point) for point, (kind, k) in enumerate(SHAPES)]
    frame = pd.DataFrame(rows)
    return Outcome(
        f"D: K components, n = {N}, {config.replicates or REPLICATES} replicates",
        [ratio_claim(row) for row in frame.to_dict("records")],
        {"n * MSE of the weights": frame},
        [
            Panel(
                "weights of K components",
                "n * MSE",
                frame.set_index("means").rename_axis(""),
                [OVER_T, LIKELIHOOD],
                [CRAMER_RAO],
                "logy",
            )
        ],
        {"worst_ratio": float((frame[OVER_T] / frame[CRAMER_RAO]).max())},
    )


def means_of(kind: str, k: int, generator: np.random.Generator) -> Tensor:
    """Return means (K, d): in general position, orthogonal, or neighbours on a circle.

    They are `DISTANCE` apart, in general position as a root mean square.
    """
    if kind == "general":
        return normals(generator, k, D) * (DISTANCE / math.sqrt(2.0 * D))
    if kind == "orthogonal":
        return torch.eye(k, dtype=torch.float64) * (DISTANCE / math.sqrt(2.0))
    angle = 2.0 * math.pi / k * torch.arange(k, dtype=torch.float64)
    radius = 0.5 * DISTANCE / math.sin(math.pi / k)
    return radius * torch.stack([torch.cos(angle), torch.sin(angle)], 1)


def _point(config: TheoryConfig, kind: str, k: int, point: int) -> dict[str, float | str]:
    """Return n * MSE of all estimates, paired with that of the components' shares.

    The shares' n * MSE is 1 - sum_k pi_k^2 on average, so that the difference to it, plus this
    average, has the same mean and less variance.
    """
    places = means_of(kind, k, numpy_generator(config.seed, "theory_means", point))
    means = k_components.reduced_means(places)
    generator = numpy_generator(config.seed, "theory_weights", point)
    weights = torch.from_numpy(generator.dirichlet([CONCENTRATION] * k))

    known = float(1.0 - weights.square().sum())

    def measure(
        name: str, estimate: Estimate, num: int, generator: np.random.Generator
    ) -> Mapping[str, Tensor]:
        x, shares = k_components.draw(weights, means, (num, N), generator)
        found = (estimate(x, generator), shares)
        errors = [N * (pi - weights[:, None]).square().sum(0) for pi in found]
        return {name: errors[0] - errors[1] + known}

    def descend(x: Tensor, generator: np.random.Generator) -> Tensor:
        return k_components.descend_logits_all_t(x, means, STEPS, AVERAGED, generator)

    def maximise(x: Tensor, generator: np.random.Generator) -> Tensor:
        densities = k_components.log_densities(x, means).softmax(0)
        return k_components.likelihood_weights(densities, 200)

    found = dict[str, Tensor]()
    for name, estimate, num, purpose in (
        (LIKELIHOOD, maximise, SLOWER, "theory_components_slower"),
        (OVER_T, descend, REPLICATES, "theory_components"),
    ):
        errors = partial(measure, name, estimate)
        found |= draw_replicates(config, num, N * k, (purpose, point), errors)
    generator = numpy_generator(config.seed, "theory_information", point)
    information = k_components.drawn_information(weights, means, generator)
    return {
        "means": f"{kind}-{k}",
        **scores(found),
        CRAMER_RAO: N * k_components.simplex_cramer_rao(information, N),
    }


def ratio_claim(row: Mapping) -> Claim:
    """Return whether descent over all t is as good as Cramer-Rao for one shape."""
    ratio, error = (row[name] / row[CRAMER_RAO] for name in (OVER_T, f"{OVER_T} +-"))
    slack = NUM_ERRORS * error
    return Claim(
        f"{row['means']}: n * MSE {row[OVER_T]:.3f} +- {row[f'{OVER_T} +-']:.3f}, {ratio:.3f} +- "
        f"{error:.3f} of Cramer-Rao, in {LEAST:g}..{MOST:g}",
        LEAST - slack <= ratio <= MOST + slack,
    )
