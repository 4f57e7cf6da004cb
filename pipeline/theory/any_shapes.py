"""Components of any shape: the loss over all t is a divergence, and descent finds the weights."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import NUM_ERRORS, Claim, Curve, Panel, over_replicates
from spire_core.mixture.histograms import (
    DiffusedNodes,
    Histograms,
    denoising_gap,
    descend_all_t,
    diffused_nodes,
    divergence,
    likelihood_gradient_in_logits,
    logit_gradient_all_t,
    rate_of_descent,
)
from spire_core.rng import numpy_generator

SHAPES = {  # heights of bins up to a factor; none is a Gaussian
    "rising": (1.0, 4.0, 9.0, 16.0, 25.0, 36.0, 49.0, 64.0),
    "falling": (64.0, 49.0, 36.0, 25.0, 16.0, 9.0, 4.0, 1.0),
    "one bump": (1.0, 4.0, 16.0, 64.0, 64.0, 16.0, 4.0, 1.0),
    "two ends": (64.0, 16.0, 4.0, 1.0, 1.0, 4.0, 16.0, 64.0),
}
CORNER = 4.0  # the logit of the component that a path starts near
LEAST, MOST = 0.95, 1.1  # times Cramer-Rao
FEWEST = 800  # steps
END = 1e-6  # of the way to the weights, which is left by as many steps as they need


class Path(NamedTuple):
    """Descent from one start: the loss above its minimum, and the error of the weights."""

    start: str
    gaps: list[float]
    errors: list[float]


class Findings(NamedTuple):
    """Claims, tables and paths of the experiment."""

    claims: Sequence[Claim]
    tables: dict[str, Mapping[str, Sequence[Any]]]
    paths: Sequence[Path]


def any_shapes() -> Histograms:
    """Return the components of the experiment, which are linearly independent."""
    return Histograms.of(torch.tensor(list(SHAPES.values()), dtype=torch.float64))


def dependent_shapes() -> Histograms:
    """Return three of the components and, as the fourth, the mean of two of them."""
    shapes = torch.tensor(list(SHAPES.values()), dtype=torch.float64)
    shapes[3] = 0.5 * (shapes[0] + shapes[1])
    return Histograms.of(shapes)


def true_weights(config: TheoryConfig) -> Tensor:
    """Return a client's weights of the components."""
    generator = numpy_generator(config.seed, "theory_shapes")
    concentration = [config.landscape.concentration] * len(SHAPES)
    return torch.from_numpy(generator.dirichlet(concentration))


def needed_steps(config: TheoryConfig) -> float:
    """Return the steps after which the predicted rate leaves `END`; infinite if a weight is 0."""
    rate = rate_of_descent(any_shapes(), true_weights(config))
    return math.ceil(math.log(END) / math.log(rate)) if rate < 1.0 else math.inf


def num_steps(config: TheoryConfig) -> int:
    """Return the steps of descent over all t."""
    return config.landscape.steps or max(FEWEST, int(needed_steps(config)))


def shape_findings(config: TheoryConfig) -> Findings:
    """Return comparisons of the denoising loss with the divergence, and descent on the loss."""
    histograms, target = any_shapes(), true_weights(config)
    nodes = diffused_nodes(histograms)
    identity = _identity(config, histograms, nodes, target)
    steps = num_steps(config)
    paths = _paths(steps, nodes, target)
    rate, measured = rate_of_descent(histograms, target), _measured_rate(paths[0])
    lost = _dependent_path(steps, target)
    likelihood = _likelihood(config, histograms, target)
    ratio = likelihood["n * MSE"][0] / likelihood["Cramer-Rao"][0]
    slack = NUM_ERRORS * likelihood["n * MSE +-"][0] / likelihood["Cramer-Rao"][0]
    ends = [path.errors[-1] for path in paths]
    off = max(*identity["loss, relative difference"], *identity["gradient, difference"])
    rises = max(float(np.diff(path.gaps).max()) for path in paths)
    claims = [
        Claim(
            f"{len(SHAPES)} components that are no Gaussians: loss over all t and KL, and their "
            f"gradients in the logits, differ by {off:.1e} at most",
            off <= 1e-5,
        ),
        Claim(
            f"descent over all t from {len(paths)} starts ends within {max(ends):.1e} of the true "
            f"weights after {steps} steps, and its loss never rises",
            max(ends) <= 1e-5 and rises <= 1e-10,
        ),
        _rate_claim(measured, rate),
        Claim(
            f"components that are linearly dependent: the loss ends {lost.gaps[-1]:.1e} above its "
            f"minimum, {lost.errors[-1]:.2f} from the true weights",
            lost.gaps[-1] <= 1e-6 and lost.errors[-1] >= 0.01,
        ),
        Claim(
            f"the minimiser on {config.landscape.n} samples (maximum likelihood) has {ratio:.3f} "
            f"+- {slack / NUM_ERRORS:.3f} of Cramer-Rao, in {LEAST:g}..{MOST:g}",
            LEAST - slack <= ratio <= MOST + slack,
        ),
    ]
    tables: dict[str, Mapping[str, Sequence[Any]]] = {
        "components of any shape: loss over all t and KL": identity,
        "descent over all t from each start": _path_columns([*paths, lost]),
        "components of any shape on data": likelihood,
    }
    return Findings(claims, tables, paths)


def _rate_claim(measured: float, rate: float) -> Claim:
    """Return the verdict on the factor, a note if the steps are too few to measure one."""
    if math.isnan(measured):
        return Claim(f"no factor per step is measured in so few steps, predicted {rate:.4f}")
    text = f"factor per step {measured:.4f}, predicted {rate:.4f}"
    return Claim(text, abs(measured - rate) <= 1e-3)


def _identity(
    config: TheoryConfig, histograms: Histograms, nodes: DiffusedNodes, target: Tensor
) -> dict[str, list[float]]:
    """Return both sides at random weights."""
    generator = numpy_generator(config.seed, "theory_identity")
    columns: dict[str, list[float]] = {}
    for _ in range(5):
        pi = torch.from_numpy(generator.dirichlet([1.0] * len(target)))
        loss, kl = denoising_gap(nodes, pi, target), divergence(histograms, pi, target)
        denoising = logit_gradient_all_t(nodes, pi, target)
        likelihood = likelihood_gradient_in_logits(histograms, pi, target)
        values = {
            "loss over all t": loss,
            "KL": kl,
            "loss, relative difference": (loss - kl).abs() / kl,
            "gradient, difference": (denoising - likelihood).abs().max(),
        }
        for name, value in values.items():
            columns.setdefault(name, []).append(float(value))
    return columns


def _paths(steps: int, nodes: DiffusedNodes, target: Tensor) -> list[Path]:
    """Return descents from equal weights and from near each component alone."""
    corners = CORNER * torch.eye(len(target), dtype=torch.float64)
    starts = {"equal weights": torch.zeros_like(target)}
    starts |= {f"near {name}": corner for name, corner in zip(SHAPES, corners, strict=True)}
    return [_path(steps, name, nodes, target, start) for name, start in starts.items()]


def _dependent_path(steps: int, target: Tensor) -> Path:
    nodes = diffused_nodes(dependent_shapes())
    return _path(steps, "equal weights, dependent", nodes, target, torch.zeros_like(target))


def _path(steps: int, name: str, nodes: DiffusedNodes, target: Tensor, start: Tensor) -> Path:
    weights = torch.softmax(descend_all_t(nodes, target, start, steps), 1)
    gaps = [float(denoising_gap(nodes, pi, target)) for pi in weights]
    return Path(name, gaps, (weights - target).abs().amax(1).tolist())


def _measured_rate(path: Path) -> float:
    """Return the factor per step of the error where it is between 1e-4 and 1e-6, or NaN."""
    errors = np.array(path.errors)
    near = np.flatnonzero((errors < 1e-4) & (errors > 1e-6))
    if len(near) < 2:
        return float("nan")
    return float((errors[near[-1]] / errors[near[0]]) ** (1.0 / (near[-1] - near[0])))


def _path_columns(paths: Sequence[Path]) -> dict[str, list[Any]]:
    def first(errors: list[float], below: float) -> float:
        return next((float(i) for i, error in enumerate(errors) if error <= below), float("nan"))

    return {
        "start": [path.start for path in paths],
        "KL at the start": [path.gaps[0] for path in paths],
        "steps to an error of 0.01": [first(path.errors, 0.01) for path in paths],
        "loss at the end": [path.gaps[-1] for path in paths],
        "error at the end": [path.errors[-1] for path in paths],
    }


def _likelihood(
    config: TheoryConfig, histograms: Histograms, target: Tensor
) -> dict[str, list[float]]:
    """Return n * MSE of maximum likelihood, paired with that of the components' shares."""
    group, shares = config.landscape, histograms.shares
    known = float(1.0 - target.square().sum())

    def measure(num: int, generator: np.random.Generator) -> dict[str, Tensor]:
        of_each = torch.from_numpy(generator.multinomial(group.n, target.numpy(), num))  # (R, K)
        bins = torch.stack(
            [
                torch.from_numpy(generator.multinomial(of_each[:, k].numpy(), shares[k].numpy()))
                for k in range(len(target))
            ]
        ).sum(0)
        pi = _likelihood_weights(bins / group.n, shares)
        errors = [(found - target).square().sum(1) for found in (pi, of_each / group.n)]
        return {"n * MSE": group.n * (errors[0] - errors[1]) + known}

    stream = (config.seed, "theory_shapes_data", 0)
    found = over_replicates(group.replicates, group.n, stream, measure)["n * MSE"]
    basis = torch.linalg.svd(torch.ones(1, len(target), dtype=torch.float64))[2][1:]
    information = basis @ (shares / (target @ shares)) @ shares.T @ basis.T
    bound = float(torch.linalg.inv(information).trace())
    return {
        "n": [group.n],
        "n * MSE": [found.mean],
        "n * MSE +-": [found.error],
        "Cramer-Rao": [bound],
        "with labels": [known],
    }


def _likelihood_weights(bins: Tensor, shares: Tensor, steps: int = 2000) -> Tensor:
    """Return the weights (R, K) of the highest likelihood for shares of bins (R, B), by EM."""
    pi = torch.full((len(bins), len(shares)), 1.0 / len(shares), dtype=torch.float64)
    for _ in range(steps):
        pi = pi * ((bins / (pi @ shares)) @ shares.T)
    return pi


def gap_panel(findings: Findings) -> Panel:
    """Return the loss above its minimum along each path."""
    curves = {
        path.start: Curve([(i, gap) for i, gap in enumerate(path.gaps) if gap > 1e-12][::10])
        for path in findings.paths
    }
    return Panel("components of any shape, all t", "step", "loss above minimum", curves, "logy")
