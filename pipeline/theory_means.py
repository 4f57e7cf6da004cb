"""The means and true weights of the K-component experiment, and whether data tell these weights."""

import math

import torch
from torch import Tensor

from pipeline.theory_config import TheoryConfig
from spire_core.errors import ConfigError
from spire_core.gmm import normals
from spire_core.gmm_kcomp import reduced_means
from spire_core.gmm_kcomp_reference import simplex_cramer_rao
from spire_core.rng import numpy_generator


def component_settings(config: TheoryConfig) -> list[tuple[str, Tensor, Tensor]]:
    """Return name, reduced means (K, r) and true weights (K,) of each shape.

    ConfigError if the means cannot be used, or if they leave the weights open: if even the
    Cramer-Rao bound of the squared error is above 1, where guessing equal weights is wrong by less
    than 1 - 1/K. Distinct means, also collinear ones, identify their weights in the limit of many
    samples, because translates of a Gaussian are linearly independent.
    """
    told = config.components
    found = [(shape, _shape_means(shape, config, i)) for i, shape in enumerate(told.shapes)]
    if told.means:
        if len({len(row) for row in told.means}) > 1:
            raise ConfigError("expected components.means of one length each: they are points")
        found = [("given", torch.tensor(told.means, dtype=torch.float64))]
    settings = []
    for point, (name, means) in enumerate(found):
        generator = numpy_generator(config.seed, "theory_weights", point)
        weights = torch.from_numpy(generator.dirichlet([told.concentration] * len(means)))
        reduced = reduced_means(means)
        least = simplex_cramer_rao(weights, reduced, told.n, generator)
        if least > 1.0:
            raise ConfigError(
                f"expected means that identify the weights, got {name} (K = {len(means)}, rank "
                f"{reduced.shape[1]}), where {told.n} samples leave a squared error of at least "
                f"{least:.3g}: move the means apart or raise components.n"
            )
        settings.append((name, reduced, weights))
    return settings


def _shape_means(shape: str, config: TheoryConfig, point: int) -> Tensor:
    """Return the means (K, d) of a shape such as `circle-8`; ConfigError if there is none such."""
    told = config.components
    kind, _, number = shape.rpartition("-")
    if kind not in ("general", "orthogonal", "circle") or not number.isdecimal() or int(number) < 2:
        raise ConfigError(
            f"expected general-K, orthogonal-K or circle-K with K of at least 2, got {shape!r}: "
            "one component has no weight to recover"
        )
    k = int(number)
    if kind == "general":
        generator = numpy_generator(config.seed, "theory_means", point)
        return normals(generator, k, told.d) * (told.distance / math.sqrt(2.0 * told.d))
    if kind == "orthogonal":
        return torch.eye(k, dtype=torch.float64) * (told.distance / math.sqrt(2.0))
    angle = 2.0 * math.pi / k * torch.arange(k, dtype=torch.float64)
    radius = 0.5 * told.distance / math.sin(math.pi / k)
    return radius * torch.stack([torch.cos(angle), torch.sin(angle)], 1)
