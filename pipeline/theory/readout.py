"""Experiment H: mixtures read off a classifier, in any dimension, of images, and for new clients.

Three parts: components that are no Gaussians in d dimensions, the shipped classifier on test
images, and new clients outside the hull of old ones, with the mixture nearest to each.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.config.data import DataConfig
from pipeline.data.datasets import describe, load
from pipeline.data.resize import resized
from pipeline.theory.config import TheoryConfig
from pipeline.theory.landscape import COMPONENTS, true_weights
from pipeline.theory.outcome import NUM_ERRORS, ROUNDING, Claim, Outcome, Panel
from pipeline.theory.replicates import draw_replicates, scores
from spire_core.evaluation.extractors import auto_extractor, make_extractor
from spire_core.mixture import readout
from spire_core.mixture.k_components import likelihood_weights
from spire_core.partition.coverage import NEGLIGIBLE, coverage, kl_projection
from spire_core.rng import numpy_generator

DIMS, N, REPLICATES = (1, 2, 4, 8, 16, 64, 256), 200, 400
PER_CLASS = 50_000  # samples from which the confusion matrix is counted
READ, EXACT, LIKELIHOOD = "read off", "read off, exact", "maximum likelihood"
SURE = 1e-6  # of n * MSE: a standard error where a sample is as good as its label

DATA, IMAGE_SIZE = "mnist", 16  # of the shipped classifier
IMAGES, CLIENTS = (64, 128, 256), 2000  # clients' numbers of images
MSE, OTHER = "n * MSE", "n * MSE, C of the other half"
TV, OTHER_TV = "TV", "TV, C of the other half"

NUM_CLASSES, CONCENTRATION = 10, 0.1
OLD_CLIENTS, NEW_CLIENTS, WORLDS = (8, 24, 96, 384), 20, 5
OLD, HULL, PROJECTION = "old clients", "hull, TV", "projection in KL, TV"
NEAREST, PINSKER = "nearest old client, TV", "Pinsker, TV"
LP_ROUNDING = 1e-6  # of a linear programme and of a projection, in TV
World = tuple[np.ndarray, np.ndarray]  # mixtures of old clients (M, K) and of new ones (N, K)


def run(config: TheoryConfig) -> Outcome:
    """Return errors against d, of the shipped classifier, and of new clients outside the hull."""
    weights = true_weights(config).numpy()
    rows = pd.DataFrame([_point(config, weights, d, i) for i, d in enumerate(DIMS)])
    by_d = rows.set_index("d").rename_axis("dimension d")
    replicates = config.replicates or REPLICATES
    in_d = Outcome(
        f"H: mixtures read off a classifier, K = {len(weights)}, n = {N}, {replicates} replicates",
        dimension_claims(rows, 1.0 - np.square(weights).sum()),
        {"d coordinates of no Gaussian, as n * MSE": rows},
        [Panel("components that are no Gaussians", MSE, by_d, [READ, LIKELIHOOD], ["bound"])],
        {"largest_norm": float(rows["||C^-1||"].max())},
    )
    has_images = describe(DATA)["ok"]
    return in_d + _shipped(config, has_images) + run_new_clients(config)


def _point(config: TheoryConfig, weights: np.ndarray, d: int, point: int) -> dict[str, float]:
    """Return bound and errors for samples of d coordinates, each from the sample's component."""
    classes = np.arange(len(weights))
    generator = numpy_generator(config.seed, "theory_confusion", point)
    labels = np.repeat(classes, PER_CLASS)
    likeliest = _log_likelihoods(labels, d, generator).argmax(0).numpy()
    confusion = readout.confusion_matrix(likeliest, labels, len(classes))

    def measure(num: int, generator: np.random.Generator) -> Mapping[str, Tensor]:
        labels = generator.choice(classes, (num, N), p=weights)
        found = _log_likelihoods(labels, d, generator)  # (K, R, n)
        of_labels, predicted = (
            np.stack([(each == k).mean(1) for k in classes], 1)
            for each in (labels, found.argmax(0).numpy())
        )
        # Paired with the error of the labels' shares in the same draws, whose mean is known.
        known = (1.0 - np.square(weights).sum()) / N - np.square(of_labels - weights).sum(1)
        likely = likelihood_weights(torch.exp(found - found.amax(0)), 200).T.numpy()
        estimates = {READ: readout.read_weights(predicted, confusion), LIKELIHOOD: likely}
        squares = {name: np.square(pi - weights).sum(1) for name, pi in estimates.items()}
        return {name: torch.from_numpy(N * (v + known)) for name, v in squares.items()}

    size, stream = N * len(classes), ("theory_readout", point)
    return {
        "d": d,
        "||C^-1||": readout.inverse_norm(confusion),
        "bound": readout.readout_bound(confusion, weights),
        EXACT: readout.readout_error(confusion, weights),
        **scores(draw_replicates(config, REPLICATES, size, stream, measure)),
    }


def _log_likelihoods(labels: np.ndarray, d: int, generator: np.random.Generator) -> Tensor:
    """Return log f_k of samples with these labels (...), each of d coordinates, as (K, ...).

    Counts of bins are sufficient, so that no cost depends on d.
    """
    shares = COMPONENTS.shares.numpy()
    counts = generator.multinomial(d, shares[labels])  # (..., B)
    return torch.from_numpy(np.moveaxis(counts @ np.log(shares).T, -1, 0).copy())


def dimension_claims(rows: pd.DataFrame, of_labels: float) -> list[Claim]:
    """Return whether errors are those of theory, and maximum likelihood is below the bound."""
    off = ((rows[READ] - rows[EXACT]).abs() / rows[f"{READ} +-"].clip(lower=SURE)).max()
    gap = (rows[LIKELIHOOD] - rows["bound"] - NUM_ERRORS * rows[f"{LIKELIHOOD} +-"]).max()
    first, last = rows.iloc[0], rows.iloc[-1]
    return [
        Claim(
            f"the error of the mixture read off is tr(C^-1 (diag(p) - p p') C^-T) / n "
            f"({off:.1f} standard errors at most)",
            off <= NUM_ERRORS,
        ),
        Claim(
            f"maximum likelihood, which descent over all t is, is below the classifier's bound in "
            f"all dimensions: {first[LIKELIHOOD]:.2f} against {first['bound']:.2f} at d = "
            f"{first['d']:g}, {last[LIKELIHOOD]:.2f} against {last['bound']:.2f} at d = "
            f"{last['d']:g}",
            gap <= ROUNDING,
        ),
        Claim(
            f"at d = {last['d']:g} the bound is {last['bound'] / of_labels:.3f} of the error of "
            f"labels, {of_labels:.3f}"
        ),
    ]


def _shipped(config: TheoryConfig, has_images: bool) -> Outcome:
    """Return what the shipped classifier tells about clients' mixtures from test images."""
    if not has_images:
        text = f"the {DATA} classifier is not measured, because its test images are not at hand"
        return Outcome("no images", [Claim(f"{text} (spire data fetch {DATA})")], {})
    data = load(DataConfig(name=DATA), "test")
    images = torch.from_numpy(resized(data.images, IMAGE_SIZE)).float() / 127.5 - 1.0
    predictions = np.asarray(make_extractor(auto_extractor(DATA)).class_predictions(images))
    return read_clients(config, predictions, np.asarray(data.labels), IMAGES)


def read_clients(
    config: TheoryConfig, predictions: np.ndarray, labels: np.ndarray, nums: Sequence[int]
) -> Outcome:
    """Return errors of mixtures read off predicted classes (N,) of images with labels (N,)."""
    is_first, num_classes = np.arange(len(labels)) % 2 == 0, int(labels.max()) + 1
    whole, drawn, other = (
        readout.confusion_matrix(predictions[part], labels[part], num_classes)
        for part in (slice(None), is_first, ~is_first)
    )
    rows = pd.DataFrame([_clients(config, n, drawn, other, i) for i, n in enumerate(nums)])
    norm, accuracy = readout.inverse_norm(whole), float((predictions == labels).mean())
    off = ((rows[MSE] - rows["exact"]).abs() / rows[f"{MSE} +-"]).max()
    first, last = rows.iloc[0], rows.iloc[-1]
    claims = [
        Claim(
            f"the {DATA} classifier at {IMAGE_SIZE} px (accuracy {accuracy:.4f}) has ||C^-1|| = "
            f"{norm:.4f}; the mixture of a client read off {first['images']:g} images is off by TV "
            f"{first[OTHER_TV]:.3f} on average"
        ),
        Claim(
            f"with C exact, its error is as computed ({off:.1f} standard errors at most)",
            off <= NUM_ERRORS,
        ),
        Claim(
            f"with C of the other half, n * MSE is {first[OTHER]:.3f} with {first['images']:g} "
            f"images and {last[OTHER]:.3f} with {last['images']:g}, where it is "
            f"{last['exact']:.3f} with C exact and the bound {last['bound']:.3f}: a C that is "
            "counted leaves a bias"
        ),
    ]
    title = f"clients' mixtures read off test images of {DATA}"
    numbers = {"shipped_norm": norm, "shipped_tv": float(first[OTHER_TV])}
    return Outcome(title, claims, {title: rows}, numbers=numbers)


def _clients(
    config: TheoryConfig, n: int, drawn: np.ndarray, other: np.ndarray, point: int
) -> dict[str, float]:
    """Return the errors over clients of n images, drawn from one half with replacement.

    `drawn` is the confusion matrix of that half, and `other` that of the other half.
    """
    generator = numpy_generator(config.seed, "theory_shipped", point)
    mixtures = generator.dirichlet([CONCENTRATION] * len(drawn), config.replicates or CLIENTS)
    counts = generator.multinomial(n, mixtures)
    predicted = [generator.multinomial(counts[:, k], drawn[:, k]) for k in range(len(drawn))]
    shares = np.sum(predicted, axis=0) / n
    own, others = (readout.read_weights(shares, c) - mixtures for c in (drawn, other))
    # What is known of each client is subtracted, so that its own mixture adds no variance.
    exact = np.array([readout.readout_error(drawn, pi) for pi in mixtures])
    values = {
        MSE: n * np.square(own).sum(1) - exact + exact.mean(),
        OTHER: n * np.square(others).sum(1) - exact + exact.mean(),
        TV: 0.5 * np.abs(own).sum(1),
        OTHER_TV: 0.5 * np.abs(others).sum(1),
    }
    found = scores({name: torch.from_numpy(v) for name, v in values.items()})
    bound = float(np.mean([readout.readout_bound(drawn, pi) for pi in mixtures]))
    squares = {name: value for name, value in found.items() if MSE in name}
    return {"images": n, **squares, "exact": float(exact.mean()), "bound": bound, **found}


def run_new_clients(config: TheoryConfig) -> Outcome:
    """Return distances of new clients to the hull and to their projections on it.

    Old and new clients have Dirichlet mixtures of 10 classes. No image counts.
    """
    drawn = {num: distances(_worlds(config, num, i)) for i, num in enumerate(OLD_CLIENTS)}
    rows = pd.DataFrame([{OLD: num, **own.mean()} for num, own in drawn.items()])
    first, last = rows.iloc[0], rows.iloc[-1]
    found = pd.concat(drawn.values())
    gap = min((found[PROJECTION] - found[HULL]).min(), (found[PINSKER] - found[PROJECTION]).min())
    claims = [
        Claim(
            f"each of {len(found)} new clients: hull TV <= TV of the projection <= sqrt(KL / 2), "
            f"with a gap of {gap:.1e} or more",
            gap >= -LP_ROUNDING,
        ),
        Claim(
            f"new clients' distance to the best mixture of old ones: TV {first[PROJECTION]:.3f} "
            f"with {first[OLD]:g} old clients, {last[PROJECTION]:.3f} with "
            f"{last[OLD]:g}, between the hull's {first[HULL]:.3f} and {last[HULL]:.3f} and "
            f"sqrt(KL / 2), {first[PINSKER]:.3f} and {last[PINSKER]:.3f}",
        ),
    ]
    curves = [HULL, PROJECTION, NEAREST]
    panel = Panel("new clients outside the hull", "TV", rows.set_index(OLD), curves)
    name = f"new clients with Dirichlet({CONCENTRATION:g}) mixtures"
    return Outcome("new clients", claims, {name: rows}, [panel])


def _worlds(config: TheoryConfig, num_old: int, point: int) -> list[World]:
    generator = numpy_generator(config.seed, "theory_coverage", point)
    concentration = [CONCENTRATION] * NUM_CLASSES
    return [
        (generator.dirichlet(concentration, num_old), generator.dirichlet(concentration, num_new))
        for num_new in [NEW_CLIENTS] * WORLDS
    ]


def distances(worlds: Sequence[World]) -> pd.DataFrame:
    """Return the distances of each new client, one a row, in worlds of old and new mixtures."""
    rows = []
    for old, new in worlds:
        for mixture in new:
            reached, to_hull = kl_projection(old, mixture), coverage(old, mixture)
            held = mixture > NEGLIGIBLE
            kl = float((mixture[held] * np.log(mixture[held] / reached[held])).sum())
            rows.append(
                {
                    HULL: to_hull.hull_tv,
                    PROJECTION: 0.5 * np.abs(reached - mixture).sum(),
                    NEAREST: to_hull.nearest_tv,
                    "KL": kl,
                    PINSKER: np.sqrt(0.5 * max(kl, 0.0)),
                }
            )
    return pd.DataFrame(rows)
