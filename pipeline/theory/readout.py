"""Experiment H: mixtures read off a classifier, in any dimension, of images, and for new clients.

Three parts: components that are no Gaussians in d dimensions, the shipped classifier on test
images, and new clients outside the hull of old ones.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.theory.any_shapes import any_shapes, true_weights
from pipeline.theory.config import TheoryConfig
from pipeline.theory.new_clients import coverage_findings
from pipeline.theory.outcome import NUM_ERRORS, Claim, Curve, Outcome, Panel, Score, over_replicates
from pipeline.theory.shipped_classifier import shipped_findings
from spire_core.mixture.readout import (
    confusion_matrix,
    inverse_norm,
    read_weights,
    readout_bound,
    readout_error,
)
from spire_core.rng import numpy_generator

EM_STEPS = 200
ROUNDING = 1e-6  # of n * MSE, where a sample of many coordinates is as good as its label
PER_CLASS = 50_000  # samples from which the confusion matrix is counted
READ, LIKELIHOOD = "read off", "maximum likelihood"


class Row(NamedTuple):
    """One dimension: norm of the inverse, bound, exact error, and measured errors, as n * MSE."""

    d: int
    norm: float
    bound: float
    exact: float
    read: Score
    likelihood: Score


def run_readout(config: TheoryConfig) -> Outcome:
    """Return errors against d, of the shipped classifier, and of new clients outside the hull."""
    weights = true_weights(config).numpy()
    rows = [_row(config, d, i) for i, d in enumerate(config.readout.dims)]
    shipped, coverage = shipped_findings(config), coverage_findings(config)
    return Outcome(
        "readout",
        f"H: mixtures read off a classifier, K = {len(weights)}, n = {config.readout.n}, "
        f"{config.readout.replicates} replicates",
        [*_claims(rows, 1.0 - np.square(weights).sum()), *shipped.claims, *coverage.claims],
        {
            "d coordinates of no Gaussian, as n * MSE": _columns(rows),
            **shipped.tables,
            **coverage.tables,
        },
        [_panel(rows), coverage.panel],
        {"largest_norm": max(row.norm for row in rows), **shipped.numbers},
    )


def _row(config: TheoryConfig, d: int, point: int) -> Row:
    """Return errors for samples of d coordinates, each drawn from the sample's component.

    Counts of bins are sufficient, so that no cost depends on d.
    """
    group, shares = config.readout, any_shapes().shares
    weights = true_weights(config).numpy()
    confusion = _confusion(config, d, shares, point)

    def measure(num: int, generator: np.random.Generator) -> Mapping[str, Tensor]:
        labels = generator.choice(len(weights), (num, group.n), p=weights)
        scores = _log_likelihoods(labels, d, shares, generator)  # (K, R, n)
        chosen = scores.argmax(0)
        predicted = torch.stack([(chosen == k).double().mean(1) for k in range(len(weights))], 1)
        pi = {
            READ: read_weights(predicted.numpy(), confusion),
            LIKELIHOOD: _likelihood_weights(scores).numpy(),
        }
        # Paired with the error of the labels' shares in the same draws, whose mean is known.
        of_labels = np.stack([(labels == k).mean(1) for k in range(len(weights))], 1)
        known = (1.0 - np.square(weights).sum()) / group.n - np.square(of_labels - weights).sum(1)
        squares = {name: np.square(found - weights).sum(1) for name, found in pi.items()}
        return {name: torch.from_numpy(group.n * (v + known)) for name, v in squares.items()}

    stream = (config.seed, "theory_readout", point)
    found = over_replicates(group.replicates, group.n * len(weights), stream, measure)
    bound, exact = readout_bound(confusion, weights), readout_error(confusion, weights)
    return Row(d, inverse_norm(confusion), bound, exact, found[READ], found[LIKELIHOOD])


def _confusion(config: TheoryConfig, d: int, shares: Tensor, point: int) -> np.ndarray:
    """Return the confusion matrix of the likeliest component, counted on samples of its own."""
    generator = numpy_generator(config.seed, "theory_confusion", point)
    labels = np.repeat(np.arange(len(shares)), PER_CLASS)
    predictions = _log_likelihoods(labels, d, shares, generator).argmax(0).numpy()
    return confusion_matrix(predictions, labels, len(shares))


def _log_likelihoods(
    labels: np.ndarray, d: int, shares: Tensor, generator: np.random.Generator
) -> Tensor:
    """Return log f_k of samples with these labels (...), each of d coordinates, as (K, ...)."""
    counts = generator.multinomial(d, shares.numpy()[labels])  # (..., B)
    return torch.from_numpy(np.moveaxis(counts @ np.log(shares.numpy()).T, -1, 0).copy())


def _likelihood_weights(scores: Tensor) -> Tensor:
    """Return the weights (R, K) of the highest likelihood for log densities (K, R, n), by EM."""
    densities = torch.exp(scores - scores.amax(0))
    pi = torch.full(scores.shape[:2], 1.0 / len(scores), dtype=scores.dtype)
    for _ in range(EM_STEPS):
        mixture = (pi[..., None] * densities).sum(0)
        pi = pi * (densities / mixture).mean(-1)
    return pi.T


def _claims(rows: Sequence[Row], of_labels: float) -> list[Claim]:
    off = max(abs(row.read.mean - row.exact) / max(row.read.error, ROUNDING) for row in rows)
    gaps = [row.likelihood.mean - row.bound - NUM_ERRORS * row.likelihood.error for row in rows]
    first, last = rows[0], rows[-1]
    return [
        Claim(
            f"the error of the mixture read off is tr(C^-1 (diag(p) - p p') C^-T) / n "
            f"({off:.1f} standard errors at most)",
            off <= NUM_ERRORS,
        ),
        Claim(
            f"maximum likelihood, which descent over all t is, is below the classifier's bound in "
            f"all dimensions: {first.likelihood.mean:.2f} against {first.bound:.2f} at d = "
            f"{first.d}, {last.likelihood.mean:.2f} against {last.bound:.2f} at d = {last.d}",
            max(gaps) <= ROUNDING,
        ),
        Claim(
            f"at d = {last.d} the bound is {last.bound / of_labels:.3f} of the error of labels, "
            f"{of_labels:.3f}",
        ),
    ]


def _columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    return {
        "d": [row.d for row in rows],
        "||C^-1||": [row.norm for row in rows],
        "bound": [row.bound for row in rows],
        "read off, exact": [row.exact for row in rows],
        READ: [row.read.mean for row in rows],
        f"{READ} +-": [row.read.error for row in rows],
        LIKELIHOOD: [row.likelihood.mean for row in rows],
        f"{LIKELIHOOD} +-": [row.likelihood.error for row in rows],
    }


def _panel(rows: Sequence[Row]) -> Panel:
    curves = {
        READ: Curve([(row.d, row.read.mean) for row in rows], [row.read.error for row in rows]),
        LIKELIHOOD: Curve(
            [(row.d, row.likelihood.mean) for row in rows], [row.likelihood.error for row in rows]
        ),
        "bound": Curve([(row.d, row.bound) for row in rows], is_reference=True),
    }
    return Panel("components that are no Gaussians", "dimension d", "n * MSE", curves)
