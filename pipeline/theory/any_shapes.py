"""Components of any shape: the loss over all t is a divergence, and descent finds the weights."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import NUM_ERRORS, Claim, Outcome, Panel
from pipeline.theory.replicates import draw_replicates, scores
from spire_core.mixture import histograms
from spire_core.mixture.histograms import DiffusedNodes, Histograms
from spire_core.mixture.k_components import likelihood_weights, simplex_cramer_rao
from spire_core.rng import numpy_generator

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
LEAST, MOST = 0.95, 1.1  # times Cramer-Rao
GAP, ERROR = "loss above minimum", "error"


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

    stream = (config.seed, "theory_shapes_data", 0)
    found = scores(draw_replicates(config.replicates or REPLICATES, N, stream, measure))
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
            f"Cramer-Rao, in {LEAST:g}..{MOST:g}",
            LEAST - slack <= mean <= MOST + slack,
        ),
    ]
