"""The bound applied to a shipped classifier: the mixture of a client read off a few images."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.config.data import DataConfig
from pipeline.data.datasets import describe, load
from pipeline.data.resize import resized
from pipeline.theory.config import NO_DATA, TheoryConfig
from pipeline.theory.outcome import NUM_ERRORS, Claim, Score, score
from spire_core.evaluation.extractors import auto_extractor, make_extractor
from spire_core.mixture.readout import (
    confusion_matrix,
    inverse_norm,
    read_weights,
    readout_bound,
    readout_error,
)
from spire_core.rng import numpy_generator


class Findings(NamedTuple):
    """Claims, tables and numbers of this part; a note alone where there are no images."""

    claims: Sequence[Claim]
    tables: Mapping[str, Mapping[str, Sequence[Any]]]
    numbers: Mapping[str, float]


class Row(NamedTuple):
    """Clients of n images: n * MSE and TV of the mixture read off, with two confusion matrices.

    The first is exact, the other that of other images.
    """

    n: int
    exact: float
    bound: float
    squares: Score
    other_squares: Score
    tv: Score
    other_tv: Score


def shipped_findings(config: TheoryConfig) -> Findings:
    """Return what the shipped classifier of `readout.data` tells about clients' mixtures."""
    name = config.readout.data
    if name == NO_DATA:
        return Findings([], {}, {})
    stored = describe(name)
    if not stored["ok"]:
        text = f"the {name} classifier is not measured, because its test images are not at hand"
        return Findings([Claim(f"{text} (spire data fetch {name})")], {}, {})
    return readout_findings(config, *_predictions(name, config.readout.image_size))


def readout_findings(config: TheoryConfig, predictions: np.ndarray, labels: np.ndarray) -> Findings:
    """Return errors of mixtures read off predicted classes (N,) of images with labels (N,)."""
    num_classes = int(labels.max()) + 1
    is_first = np.arange(len(labels)) % 2 == 0
    whole, drawn, other = (
        confusion_matrix(predictions[part], labels[part], num_classes)
        for part in (slice(None), is_first, ~is_first)
    )
    rows = [_row(config, n, drawn, other, i) for i, n in enumerate(config.readout.images)]
    norm, off = inverse_norm(whole), max(_standard_errors(row) for row in rows)
    accuracy = float((predictions == labels).mean())
    columns = {
        "images": [row.n for row in rows],
        "n * MSE": [row.squares.mean for row in rows],
        "n * MSE +-": [row.squares.error for row in rows],
        "n * MSE, C of the other half": [row.other_squares.mean for row in rows],
        "n * MSE, C of the other half +-": [row.other_squares.error for row in rows],
        "exact": [row.exact for row in rows],
        "bound": [row.bound for row in rows],
        "TV": [row.tv.mean for row in rows],
        "TV +-": [row.tv.error for row in rows],
        "TV, C of the other half": [row.other_tv.mean for row in rows],
        "TV, C of the other half +-": [row.other_tv.error for row in rows],
    }
    first, last = rows[0], rows[-1]
    claims = [
        Claim(
            f"the {config.readout.data} classifier at {config.readout.image_size} px (accuracy "
            f"{accuracy:.4f}) has ||C^-1|| = {norm:.4f}; the mixture of a client read off "
            f"{first.n} images is off by TV {first.other_tv.mean:.3f} on average",
        ),
        Claim(
            f"with C exact, its error is as computed ({off:.1f} standard errors at most)",
            off <= NUM_ERRORS,
        ),
        Claim(
            f"with C of the other half, n * MSE is {first.other_squares.mean:.3f} with {first.n} "
            f"images and {last.other_squares.mean:.3f} with {last.n}, where it is {last.exact:.3f} "
            f"with C exact and the bound {last.bound:.3f}: a C that is counted leaves a bias",
        ),
    ]
    title = f"clients' mixtures read off test images of {config.readout.data}"
    numbers = {"shipped_norm": norm, "shipped_tv": first.other_tv.mean}
    return Findings(claims, {title: columns}, numbers)


def _standard_errors(row: Row) -> float:
    return abs(row.squares.mean - row.exact) / row.squares.error


def _row(config: TheoryConfig, n: int, drawn: np.ndarray, other: np.ndarray, point: int) -> Row:
    """Return the errors over clients, whose images are drawn from one half with replacement.

    `drawn` is the confusion matrix of that half, and `other` that of the other half.
    """
    group = config.readout
    generator = numpy_generator(config.seed, "theory_shipped", point)
    mixtures = generator.dirichlet([group.concentration] * len(drawn), group.clients)  # (R, K)
    counts = generator.multinomial(n, mixtures)
    predicted = [generator.multinomial(counts[:, k], drawn[:, k]) for k in range(len(drawn))]
    shares = np.sum(predicted, axis=0) / n
    off = [read_weights(shares, c) - mixtures for c in (drawn, other)]
    # What is known of each client is subtracted, so that its own mixture adds no variance.
    exact = np.array([readout_error(drawn, pi) for pi in mixtures])
    squares = [n * np.square(gap).sum(1) - exact + exact.mean() for gap in off]
    distances = [0.5 * np.abs(gap).sum(1) for gap in off]
    return Row(
        n,
        float(exact.mean()),
        float(np.mean([readout_bound(drawn, pi) for pi in mixtures])),
        *(score(torch.from_numpy(found)) for found in (*squares, *distances)),
    )


def _predictions(name: str, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes (N,) that the classifier sees in the test images, and their labels."""
    data = load(DataConfig(name=name), "test")
    images = torch.from_numpy(resized(data.images, image_size)).float() / 127.5 - 1.0
    predictions = make_extractor(auto_extractor(name)).class_predictions(images)
    return np.asarray(predictions), np.asarray(data.labels)
