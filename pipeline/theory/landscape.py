"""Experiment G: descent on the expected loss finds the weights from anywhere.

Two Gaussians at one t; then components of any shape over all t, where the loss is a divergence.
"""

import math
from collections.abc import Mapping
from itertools import product

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import NUM_ERRORS, ROUNDING, Claim, Outcome, Panel
from pipeline.theory.replicates import draw_replicates, scores
from spire_core.mixture import expected_loss, histograms
from spire_core.mixture.histograms import DiffusedNodes, Histograms
from spire_core.mixture.k_components import likelihood_weights, simplex_cramer_rao
from spire_core.mixture.two_components import log_odds
from spire_core.rng import numpy_generator

SEPARATIONS = (0.1, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)  # m_t; above 6, 1 - factor is rounding
WEIGHTS = (0.001, 0.02, 0.1, 0.5)  # beside the common w
PLACES = torch.linspace(-6.0, 6.0, 241, dtype=torch.float64)  # h
STARTS = (0.001, 0.5, 0.999)
NEAR = 1e-5  # distances in h below it are not compared from step to step
LARGEST, SMALLEST = "largest curvature", "smallest curvature"
STEEPEST, LEAST = "largest secant", "smallest secant / bound"
RATE, RATE_BOUND = "1 - factor", "1 - factor, bound"
WORST = {LARGEST: max, SMALLEST: min, STEEPEST: max, LEAST: min}

# Components of any shape.
SHAPES = {  # heights of bins up to a factor; none is a Gaussian, and they are independent
    "rising": (1.0, 4.0, 9.0, 16.0, 25.0, 36.0, 49.0, 64.0),
    "falling": (64.0, 49.0, 36.0, 25.0, 16.0, 9.0, 4.0, 1.0),
    "one bump": (1.0, 4.0, 16.0, 64.0, 64.0, 16.0, 4.0, 1.0),
    "two ends": (64.0, 16.0, 4.0, 1.0, 1.0, 4.0, 16.0, 64.0),
}
COMPONENTS = Histograms.of(torch.tensor(list(SHAPES.values()), dtype=torch.float64))
CONCENTRATION = 4.0  # a client's weights are one Dirichlet draw
CORNER = 4.0  # the logit of the component that a path starts near
FEWEST, END = 800, 1e-6  # steps; END of the way is left by as many as the weights need
N, REPLICATES = 2000, 1000
BEST, MOST = 0.95, 1.1  # times Cramer-Rao
GAP, ERROR = "loss above minimum", "error"


def run(config: TheoryConfig) -> Outcome:
    """Return the landscape of two Gaussians, and descents and estimates of any components."""
    weights = (config.w, *WEIGHTS)
    extremes = pd.DataFrame([_extremes_of_all(weights, m_t) for m_t in SEPARATIONS])
    paths = pd.DataFrame([_path(*place) for place in product(weights, SEPARATIONS, STARTS)])
    curves = [LARGEST, f"{LARGEST}, any w", SMALLEST, f"{SMALLEST}, any w", STEEPEST]
    units, by_m_t = "in units of 2 m_t^2", extremes.set_index("m_t")
    gaussians = Outcome(
        "G: the expected loss as a function of the weights, and descent on it from anywhere",
        [*extreme_claims(extremes), *path_claims(paths)],
        {f"two components at one t, {units}, w = {config.w:g}": extremes},
        [Panel("two components at one t", units, by_m_t, curves, scale="logx")],
        {"largest_curvature": float(extremes[f"{LARGEST}, any w"].max())},
    )
    return gaussians + run_any_shapes(config)


def _extremes_of_all(weights: tuple[float, ...], m_t: float) -> dict[str, float]:
    """Return extremes over h at one m_t, for the first weight and over all of them."""
    found, row = pd.DataFrame([_extremes(w, m_t) for w in weights]), {"m_t": m_t}
    for name, worst in WORST.items():
        row |= {name: found[name][0], f"{name}, any w": worst(found[name])}
    row[RATE] = expected_loss.rate(weights[0], m_t)
    return row | {RATE_BOUND: expected_loss.least_rate_bound(weights[0], m_t)}


def _extremes(w: float, m_t: float) -> dict[str, float]:
    gradient, curvature = expected_loss.at_one_t(w, m_t, PLACES)
    distance = PLACES - log_odds(torch.tensor(w, dtype=PLACES.dtype))
    away = distance.abs() > 0.01
    secant = gradient[away] / distance[away]
    return {
        LARGEST: float(curvature.max()),
        SMALLEST: float(curvature.min()),
        STEEPEST: float(secant.max()),
        LEAST: float((secant / expected_loss.least_secant(w, m_t, PLACES)[away]).min()),
    }


def _path(w: float, m_t: float, start: float) -> dict[str, float]:
    """Return whether descent passes the minimum with steps 1 / L and, for comparison, with 4 / L.

    `excess`: by how much the factor of a step of 1 / L exceeds its bound, at most.
    """
    away, longer = (_distances(w, m_t, start, lr) for lr in (1.0, 4.0))
    excess = -math.inf
    if len(away) > 1:
        here = away[:-1] + log_odds(torch.tensor(w, dtype=away.dtype))
        bound = 1.0 - expected_loss.least_secant(w, m_t, here)
        excess = float((away[1:] / away[:-1] - bound).max())
    passes, passes_longer = (bool((d.sign().diff() != 0).any()) for d in (away, longer))
    return {"passes": passes, "passes with 4 / L": passes_longer, "excess": excess}


def _distances(w: float, m_t: float, start: float, lr: float) -> Tensor:
    """Return h - h* along a path as long as it is not near."""
    path = torch.tensor(expected_loss.expected_path(w, m_t, 40, lr, start), dtype=torch.float64)
    away = log_odds(path) - log_odds(torch.tensor(w, dtype=torch.float64))
    is_near = (away.abs() < NEAR).nonzero()
    return away[: int(is_near[0]) if len(is_near) else None]


def extreme_claims(extremes: pd.DataFrame) -> list[Claim]:
    """Return whether curvatures, secants and rates are within their bounds."""
    low, high = expected_loss.CURVATURES
    largest, smallest, steepest, least = (
        worst(extremes[f"{name}, any w"]) for name, worst in WORST.items()
    )
    return [
        Claim(
            f"the curvature in h is {smallest:.2f} to {largest:.2f} times 2 m_t^2 (at w of the "
            f"table {extremes[SMALLEST].min():.2f} to {extremes[LARGEST].max():.2f}), inside "
            f"{low:.2f}..{high:.2f}: 2 m_t^2 is not the largest",
            low <= smallest and largest <= high,
        ),
        Claim(
            f"gradient / (h - h*) is at most {steepest:.4f} times 2 m_t^2, and at least "
            f"{least:.2f} times E min(sech^4 u, sech^4 u*)",
            0.0 < steepest <= 1.0 + ROUNDING and least >= 1.0 - ROUNDING,
        ),
        Claim(
            f"1 - factor is at most {(extremes[RATE] / extremes[RATE_BOUND]).max():.2f} of "
            f"sqrt(pi w (1 - w) / 2) exp(-m_t^2 / 2) / m_t",
            (extremes[RATE] <= extremes[RATE_BOUND] + ROUNDING).all(),
        ),
    ]


def path_claims(paths: pd.DataFrame) -> list[Claim]:
    """Return whether no path passes the minimum, and no step is slower than its bound."""
    passes, longer, excess = (
        paths["passes"].sum(),
        paths["passes with 4 / L"].sum(),
        paths["excess"],
    )
    return [
        Claim(
            f"{passes} of {len(paths)} paths with steps 1 / L pass the minimum ({longer} with "
            "4 / L)",
            passes == 0,
        ),
        Claim(
            f"each step's factor is at most 1 - E min(sech^4 u, sech^4 u*), by {-excess.max():.1e} "
            "or more",
            excess.max() <= ROUNDING,
        ),
    ]


def true_weights(config: TheoryConfig) -> Tensor:
    """Return a client's weights of the components."""
    generator = numpy_generator(config.seed, "theory_shapes")
    return torch.from_numpy(generator.dirichlet([CONCENTRATION] * len(SHAPES)))


def run_any_shapes(config: TheoryConfig) -> Outcome:
    """Return the loss beside the divergence, descent from all sides, and errors on data."""
    target, nodes = true_weights(config), histograms.diffused_nodes(COMPONENTS)
    identity, estimates = _identity(config, nodes, target), _estimates(config, target)
    predicted = histograms.rate_of_descent(COMPONENTS, target)
    steps = max(FEWEST, math.ceil(math.log(END) / math.log(predicted)))
    starts = {"equal weights": torch.zeros_like(target)}
    corners = CORNER * torch.eye(len(target), dtype=torch.float64)
    starts |= {f"near {name}": corner for name, corner in zip(SHAPES, corners, strict=True)}
    paths = {name: descent(nodes, target, start, steps) for name, start in starts.items()}
    mean_of_two = COMPONENTS.heights.clone()
    mean_of_two[3] = 0.5 * (mean_of_two[0] + mean_of_two[1])
    dependent = histograms.diffused_nodes(Histograms(COMPONENTS.edges, mean_of_two))
    lost = descent(dependent, target, starts["equal weights"], steps)
    ends = [_end(*item) for item in {**paths, "equal weights, dependent": lost}.items()]
    gaps = pd.DataFrame({name: path[GAP] for name, path in paths.items()}).iloc[::10]
    gaps = gaps.where(gaps > 1e-12).rename_axis("step")
    return Outcome(
        "components of any shape",
        [*descent_claims(identity, paths, predicted), *weight_claims(lost, estimates)],
        {
            "components of any shape: loss over all t and KL": identity,
            "descent over all t from each start": pd.DataFrame(ends),
            "components of any shape on data": pd.DataFrame([estimates]),
        },
        [Panel("components of any shape, all t", GAP, gaps, list(paths), scale="logy")],
    )


def _identity(config: TheoryConfig, nodes: DiffusedNodes, target: Tensor) -> pd.DataFrame:
    """Return the denoising loss and the divergence, and their gradients, at random weights."""
    generator, rows = numpy_generator(config.seed, "theory_identity"), []
    for _ in range(5):
        pi = torch.from_numpy(generator.dirichlet([1.0] * len(target)))
        loss = float(histograms.denoising_gap(nodes, pi, target))
        kl = float(histograms.divergence(COMPONENTS, pi, target))
        denoising = histograms.logit_gradient_all_t(nodes, pi, target)
        likelihood = histograms.likelihood_gradient_in_logits(COMPONENTS, pi, target)
        row = {"loss over all t": loss, "KL": kl, "loss, relative difference": abs(loss - kl) / kl}
        rows.append(row | {"gradient, difference": float((denoising - likelihood).abs().max())})
    return pd.DataFrame(rows)


def descent(nodes: DiffusedNodes, target: Tensor, start: Tensor, steps: int) -> pd.DataFrame:
    """Return the loss above its minimum, and the error of the weights, along a descent."""
    weights = torch.softmax(histograms.descend_all_t(nodes, target, start, steps), 1)
    gaps = [float(histograms.denoising_gap(nodes, pi, target)) for pi in weights]
    return pd.DataFrame({GAP: gaps, ERROR: (weights - target).abs().amax(1).numpy()})


def _end(start: str, path: pd.DataFrame) -> dict[str, float | str]:
    reached = path.index[path[ERROR] <= 0.01]
    return {
        "start": start,
        "KL at the start": path[GAP].iloc[0],
        "steps to an error of 0.01": float(reached[0]) if len(reached) else math.nan,
        "loss at the end": path[GAP].iloc[-1],
        "error at the end": path[ERROR].iloc[-1],
    }


def _estimates(config: TheoryConfig, target: Tensor) -> dict[str, float]:
    """Return n * MSE of maximum likelihood, paired with that of the components' shares."""
    shares, known = COMPONENTS.shares, float(1.0 - target.square().sum())

    def measure(num: int, generator: np.random.Generator) -> Mapping[str, Tensor]:
        of_each = generator.multinomial(N, target.numpy(), num)  # (R, K)
        bins = sum(
            torch.from_numpy(generator.multinomial(of_each[:, k], shares[k].numpy()))
            for k in range(len(target))
        )
        counts = bins * (shares.shape[1] / N)
        pi = likelihood_weights(shares[:, None].expand(-1, num, -1), 2000, counts).T
        errors = [(found - target).square().sum(1) for found in (pi, torch.from_numpy(of_each) / N)]
        return {"n * MSE": N * (errors[0] - errors[1]) + known}

    found = scores(draw_replicates(config, REPLICATES, N, ("theory_shapes_data", 0), measure))
    bound = simplex_cramer_rao(COMPONENTS.information(target), 1)
    return {"n": N, **found, "Cramer-Rao": bound, "with labels": known}


def descent_claims(
    identity: pd.DataFrame, paths: Mapping[str, pd.DataFrame], predicted: float
) -> list[Claim]:
    """Return whether the loss is a divergence, and descent ends at the weights as predicted."""
    off = identity[["loss, relative difference", "gradient, difference"]].max().max()
    end = max(path[ERROR].iloc[-1] for path in paths.values())
    rise = max(path[GAP].diff().max() for path in paths.values())
    first = paths["equal weights"][ERROR]
    near = first[(first < 1e-4) & (first > 1e-6)]
    factor = (near.iloc[-1] / near.iloc[0]) ** (1.0 / (near.index[-1] - near.index[0]))
    return [
        Claim(
            f"{len(SHAPES)} components that are no Gaussians: loss over all t and KL, and their "
            f"gradients in the logits, differ by {off:.1e} at most",
            off <= 1e-5,
        ),
        Claim(
            f"descent over all t from {len(paths)} starts ends within {end:.1e} of the true "
            f"weights after {len(first) - 1} steps, and its loss never rises",
            end <= 1e-5 and rise <= 1e-10,
        ),
        Claim(
            f"factor per step {factor:.4f}, predicted {predicted:.4f}",
            abs(factor - predicted) <= 1e-3,
        ),
    ]


def weight_claims(lost: pd.DataFrame, estimates: Mapping[str, float]) -> list[Claim]:
    """Return whether dependent components hide the weights, and data tell them by Cramer-Rao."""
    gap, error = lost.iloc[-1]
    mean, chance = (estimates[n] / estimates["Cramer-Rao"] for n in ("n * MSE", "n * MSE +-"))
    slack = NUM_ERRORS * chance
    return [
        Claim(
            f"components that are linearly dependent: the loss ends {gap:.1e} above its minimum, "
            f"{error:.2f} from the true weights",
            gap <= 1e-6 and error >= 0.01,
        ),
        Claim(
            f"the minimiser on {N} samples (maximum likelihood) has {mean:.3f} +- {chance:.3f} of "
            f"Cramer-Rao, in {BEST:g}..{MOST:g}",
            BEST - slack <= mean <= MOST + slack,
        ),
    ]
