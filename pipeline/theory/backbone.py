"""Experiment E: a new client's weight when the means, the backbone, are wrong or learned."""

import math
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import NUM_ERRORS, Claim, Outcome, Panel
from pipeline.theory.replicates import scores, wide
from spire_core.mixture import inexact_means as inexact
from spire_core.mixture.estimators import averaged_minimiser, maximum_likelihood
from spire_core.mixture.expected_loss import cramer_rao
from spire_core.mixture.two_components import normals, time_of
from spire_core.rng import numpy_generator

D, M, N = 64, 2.0, 200
KINDS = ("isotropic", "scale", "shift")
SIZES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)  # of the error of each mean
M_T = 1.0  # of the loss at one t
CLIENTS, CLIENT_N = (1, 2, 4, 8, 16, 32), 100
SKEWS = {0.5: "theory_learned", 50.0: "theory_learned_even"}  # Beta(s, s) weights, and a control
REPLICATES, LEARNED = 400, 60
INSIDE = 3.0  # standard deviations from 0 and 1, which the formula of errors does not know
MSE, SIZE = "n * MSE", "error of each mean"


def run(config: TheoryConfig) -> Outcome:
    """Return the new client's n * MSE against the size of an error, and against C."""
    mu = torch.full((D,), M / math.sqrt(D), dtype=torch.float64)
    floor = N * cramer_rao(config.w, M, N)
    wrong = pd.DataFrame([_wrong(config, mu, kind, size) for size in SIZES for kind in KINDS])
    learned = {
        skew: pd.DataFrame([_learned(config, mu, skew, c, i) for i, c in enumerate(CLIENTS)])
        for skew in SKEWS
    }
    ends = {"measured": "", "measured +-": " +-", "predicted": ", predicted"}
    likelihood = wide(wrong, SIZE, "kind", "{}", ends).assign(**{"Cramer-Rao": floor})
    at_one_t = wide(wrong, SIZE, "kind", "{}", {"one t": "", "one t +-": " +-"})
    medians = {f"Beta({s:g}, {s:g})": rows.set_index("C")["median"] for s, rows in learned.items()}
    of_clients = pd.DataFrame(medians).rename_axis("pre-training clients C")
    predicted = [*(f"{kind}, predicted" for kind in KINDS), "Cramer-Rao"]
    return Outcome(
        f"E: w = {config.w:g} on means that are not exact, d = {D}, ||mu|| = {M:g}",
        [*wrong_claims(wrong, floor), *learned_claims(of_clients)],
        {
            "means that are wrong, as n * MSE of maximum likelihood": likelihood.reset_index(),
            f"the same of the exact minimiser of the loss at one t, m_t = {M_T:g}": (
                at_one_t.reset_index()
            ),
        }
        | {
            f"means learned from C clients with Beta({s:g}, {s:g}) weights, as n * MSE": rows
            for s, rows in learned.items()
        },
        [
            Panel("likelihood", MSE, likelihood, KINDS, predicted, "logy"),
            Panel(f"one t, m_t = {M_T:g}", MSE, at_one_t, KINDS, scale="logy"),
            Panel("means learned by EM", f"median {MSE}, by theory", of_clients, list(medians)),
        ],
        {"floor": floor, "learned_last": float(learned[0.5]["median"].iloc[-1])},
    )


def _wrong(config: TheoryConfig, mu: Tensor, kind: str, size: float) -> dict[str, Any]:
    """Return n * MSE on means that are wrong by one size.

    `off`: measured and predicted errors differ by so many standard errors; NaN where a limit of
    maximum likelihood is within `INSIDE` of 0 or 1.
    """
    w, t = config.w, time_of(M_T, M)
    generator = numpy_generator(config.seed, "theory_wrong", KINDS.index(kind), SIZES.index(size))
    means = inexact.perturbed(mu, kind, size, config.replicates or REPLICATES, generator)
    line = inexact.line_of(*means, mu)
    y = inexact.draw_on_line(w, line, N, generator)
    limit = inexact.believed_limit(w, line)
    found = scores(
        {
            "measured": N * (maximum_likelihood(y, line.m) - w) ** 2,
            "predicted": N * inexact.believed_error(w, line, N),
            "one t": N * (averaged_minimiser(y, line.m, t) - w) ** 2,
        }
    )
    spread = inexact.believed_variance(w, line, limit, N).sqrt()
    is_inside = (torch.minimum(limit, 1.0 - limit) >= INSIDE * spread).all() and spread.all()
    error = max(1e-12, math.hypot(found["measured +-"], found["predicted +-"]))
    return {
        SIZE: size,
        "kind": kind,
        **found,
        "off": abs(found["measured"] - found["predicted"]) / error if is_inside else math.nan,
    }


def _learned(
    config: TheoryConfig, mu: Tensor, skew: float, num_clients: int, point: int
) -> dict[str, float]:
    """Return errors of the new client on means that C clients gave, of Beta(skew, skew) weights."""
    generator = numpy_generator(config.seed, SKEWS[skew], point)
    shape = (config.replicates or LEARNED, num_clients, CLIENT_N)
    w = torch.from_numpy(generator.beta(skew, skew, shape[:2]))
    is_first = torch.from_numpy(generator.random(shape)) < w[..., None]
    x = normals(generator, *shape, D) + torch.where(is_first[..., None], mu, -mu)
    plus, minus = inexact.learn_means(x, mu)
    line = inexact.line_of(plus, minus, mu)
    y = inexact.draw_on_line(config.w, line, N, generator)
    predicted = N * inexact.believed_error(config.w, line, N)
    off = torch.stack([(plus - mu).norm(dim=-1), (minus + mu).norm(dim=-1)])
    return {
        "C": num_clients,
        **scores({"measured": N * (maximum_likelihood(y, line.m) - config.w) ** 2}),
        "predicted": float(predicted.mean()),
        "median": float(predicted.median()),
        "error of a mean": float(off.square().mean().sqrt()),
    }


def wrong_claims(wrong: pd.DataFrame, floor: float) -> list[Claim]:
    """Return whether errors are those of the formula, and a note on the largest."""
    text = (
        f"measured and predicted errors differ by {wrong['off'].max():.1f} standard errors at most"
    )
    if num := wrong["off"].isna().sum():
        text += f" ({num} of {len(wrong)} left out, near 0 or 1)"
    last = wrong.groupby("kind").last()
    texts = [
        f"{last.loc[kind, 'measured']:.2f} / {last.loc[kind, 'one t']:.2f} {words}"
        for kind, words in (
            ("shift", "if both shift along mu"),
            ("isotropic", "in random directions"),
            ("scale", "if too far apart"),
        )
    ]
    return [
        Claim(f"maximum likelihood: {text}", wrong["off"].max() <= NUM_ERRORS),
        Claim(
            f"means off by {SIZES[-1]:g} each: n * MSE of maximum likelihood / of the minimiser at "
            f"one t {', '.join(texts)} (Cramer-Rao on exact means: {floor:.3f})",
        ),
    ]


def learned_claims(medians: pd.DataFrame) -> list[Claim]:
    """Return whether more clients lower the median error, and most for skewed ones, in column 0."""
    gains = medians.iloc[0] / medians.iloc[-1]
    claims = [
        Claim(
            f"learned from C = {CLIENTS[0]} .. {CLIENTS[-1]} clients of {CLIENT_N} with {name} "
            f"weights: median n * MSE {medians[name].iloc[0]:.3f} .. {medians[name].iloc[-1]:.3f}",
            gains[name] >= 1.0,
        )
        for name in medians.columns
    ]
    skewed, even = gains
    text = (
        f"federation lowers the median {skewed:.2f} times if clients are skewed, {even:.2f} times"
    )
    return [*claims, Claim(f"{text} if they are not", skewed > even)]
