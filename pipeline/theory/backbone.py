"""Experiment E: a new client's weight when the means, the backbone, are wrong or learned."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import NUM_ERRORS, Claim, Curve, Outcome, Panel, Score, score
from spire_core.config.checks import require
from spire_core.mixture.averaged_loss import averaged_minimiser, limit_at_one_t
from spire_core.mixture.estimators import maximum_likelihood
from spire_core.mixture.exact_errors import cramer_rao
from spire_core.mixture.inexact_means import (
    believed_error,
    believed_limit,
    believed_variance,
    draw_on_line,
    learn_means,
    line_of,
    moment_limit,
    perturbed,
)
from spire_core.mixture.two_components import normals, time_of
from spire_core.rng import numpy_generator

KINDS = ("isotropic", "scale", "shift")
INSIDE = 3.0  # standard deviations from 0 and 1, which the formula of errors does not know


class Wrong(NamedTuple):
    """n * MSE on means that are wrong by one size, and the limits of three estimators minus w.

    `is_inside`: that of maximum likelihood is `INSIDE` or more from 0 and 1.
    """

    measured: Score
    predicted: Score
    at_one_t: Score
    limits: dict[str, float]
    is_inside: bool = True


def check_backbone(config: TheoryConfig) -> None:
    """Raise ConfigError if ||mu|| does not exceed m_t, or if there is nothing to compare."""
    group = config.backbone
    time_of(group.m_t, group.m)
    two = "two different entries of backbone.clients or more"
    require(len(set(group.clients)) > 1, two, list(group.clients), "few and many are compared")
    even = f"backbone.skew below backbone.even = {group.even:g}"
    require(group.skew < group.even, even, group.skew, "the even ones are the control")


def run_backbone(config: TheoryConfig) -> Outcome:
    """Return the new client's n * MSE against the size of an error, and against C."""
    group = config.backbone
    mu = torch.full((group.d,), group.m / math.sqrt(group.d), dtype=torch.float64)
    floor = group.n * cramer_rao(config.w, group.m, group.n)
    wrong = {kind: _wrong(config, mu, kind, i) for i, kind in enumerate(KINDS)}
    clients = sorted(group.clients)
    learned = {
        skew: [_learned(config, mu, skew, c, i) for i, c in enumerate(clients)]
        for skew in (group.skew, group.even)
    }
    return Outcome(
        "backbone",
        f"E: w = {config.w:g} on means that are not exact, d = {group.d}, ||mu|| = {group.m:g}",
        [*_wrong_claims(config, wrong, floor), *_learned_claims(config, learned)],
        {
            "means that are wrong, as n * MSE of maximum likelihood": _wrong_columns(
                config, wrong, floor
            ),
            f"the same of the exact minimiser of the loss at one t, m_t = {group.m_t:g}": (
                _one_t_columns(config, wrong)
            ),
            "limits for n -> inf, minus w": _limit_columns(config, wrong),
        }
        | {
            f"means learned from C clients with Beta({skew:g}, {skew:g}) weights, as n * MSE": (
                _learned_columns(clients, rows)
            )
            for skew, rows in learned.items()
        },
        [_wrong_panel(config, wrong, floor), _learned_panel(config, learned, floor)],
        {"floor": floor, "learned_last": learned[group.skew][-1]["median"]},
    )


def _wrong_claims(config: TheoryConfig, wrong, floor: float) -> list[Claim]:
    last = {kind: rows[-1] for kind, rows in wrong.items()}
    texts = [
        f"{last[kind].measured.mean:.2f} / {last[kind].at_one_t.mean:.2f} {words}"
        for kind, words in (
            ("shift", "if both shift along mu"),
            ("isotropic", "in random directions"),
            ("scale", "if too far apart"),
        )
    ]
    return [
        _formula_claim([row for rows in wrong.values() for row in rows]),
        Claim(
            f"means off by {config.backbone.sizes[-1]:g} each: n * MSE of maximum likelihood / of "
            f"the minimiser at one t {', '.join(texts)} (Cramer-Rao on exact means: {floor:.3f})",
        ),
    ]


def _formula_claim(rows: list[Wrong]) -> Claim:
    """Return the verdict on the formula, a note if all limits are too near 0 or 1 for it."""
    inside = [row for row in rows if row.is_inside]
    if not inside:
        return Claim("all limits of maximum likelihood are too near 0 or 1 for the formula")
    off = max(
        abs(row.measured.mean - row.predicted.mean)
        / max(1e-12, math.hypot(row.measured.error, row.predicted.error))
        for row in inside
    )
    text = f"measured and predicted errors differ by {off:.1f} standard errors at most"
    if len(inside) < len(rows):
        text += f" ({len(rows) - len(inside)} of {len(rows)} left out, near 0 or 1)"
    return Claim(f"maximum likelihood: {text}", off <= NUM_ERRORS)


def _learned_claims(config: TheoryConfig, learned) -> list[Claim]:
    group, claims, gains = config.backbone, [], {}
    for skew, rows in learned.items():
        first, last = rows[0]["median"], rows[-1]["median"]
        gains[skew] = first / last
        claims.append(
            Claim(
                f"learned from C = {min(group.clients)} .. {max(group.clients)} clients of "
                f"{group.client_n} with Beta({skew:g}, {skew:g}) weights: median n * MSE "
                f"{first:.3f} .. {last:.3f}",
                last <= first,
            )
        )
    skewed, even = gains[group.skew], gains[group.even]
    text = (
        f"federation lowers the median {skewed:.2f} times if clients are skewed, {even:.2f} times"
    )
    return [*claims, Claim(f"{text} if they are not", skewed > even)]


def _wrong(config: TheoryConfig, mu: Tensor, kind: str, point: int) -> list[Wrong]:
    group, rows = config.backbone, []
    t = time_of(group.m_t, group.m)
    for i, size in enumerate(group.sizes):
        generator = numpy_generator(config.seed, "theory_wrong", point, i)
        plus, minus = perturbed(mu, kind, size, group.replicates, generator)
        line = line_of(plus, minus, mu)
        y = draw_on_line(config.w, line, group.n, generator)
        limits = {
            "likelihood": believed_limit(config.w, line),
            "one t": limit_at_one_t(config.w, line, t),
            "moment": moment_limit(config.w, line),
        }
        limit = limits["likelihood"]
        spread = believed_variance(config.w, line, limit, group.n).sqrt()
        rows.append(
            Wrong(
                score(group.n * (maximum_likelihood(y, line.m) - config.w) ** 2),
                score(group.n * believed_error(config.w, line, group.n)),
                score(group.n * (averaged_minimiser(y, line.m, t) - config.w) ** 2),
                {name: float(limit.mean()) - config.w for name, limit in limits.items()},
                bool((torch.minimum(limit, 1.0 - limit) >= INSIDE * spread).all() and spread.all()),
            )
        )
    return rows


def _learned(
    config: TheoryConfig, mu: Tensor, skew: float, num_clients: int, point: int
) -> dict[str, float]:
    """Return errors of the new client on means that C clients gave, of Beta(skew, skew) weights."""
    group = config.backbone
    purpose = "theory_learned" if skew == group.skew else "theory_learned_even"
    generator = numpy_generator(config.seed, purpose, point)
    shape = (group.learned, num_clients, group.client_n)
    w = torch.from_numpy(generator.beta(skew, skew, shape[:2]))
    is_first = torch.from_numpy(generator.random(shape)) < w[..., None]
    x = normals(generator, *shape, group.d) + torch.where(is_first[..., None], mu, -mu)
    plus, minus = learn_means(x, mu)
    line = line_of(plus, minus, mu)
    y = draw_on_line(config.w, line, group.n, generator)
    predicted = group.n * believed_error(config.w, line, group.n)
    measured = score(group.n * (maximum_likelihood(y, line.m) - config.w) ** 2)
    off = torch.stack([(plus - mu).norm(dim=-1), (minus + mu).norm(dim=-1)])
    return {
        "measured": measured.mean,
        "measured +-": measured.error,
        "predicted": float(predicted.mean()),
        "median": float(predicted.median()),
        "error of a mean": float(off.square().mean().sqrt()),
    }


def _wrong_columns(config, wrong, floor: float) -> dict[str, list[float]]:
    columns = {"error of each mean": list(config.backbone.sizes)}
    for kind, rows in wrong.items():
        columns[kind] = [row.measured.mean for row in rows]
        columns[f"{kind} +-"] = [row.measured.error for row in rows]
        columns[f"{kind}, predicted"] = [row.predicted.mean for row in rows]
    return columns | {"Cramer-Rao": [floor] * len(config.backbone.sizes)}


def _one_t_columns(config, wrong) -> dict[str, list[float]]:
    columns = {"error of each mean": list(config.backbone.sizes)}
    for kind, rows in wrong.items():
        columns[kind] = [row.at_one_t.mean for row in rows]
        columns[f"{kind} +-"] = [row.at_one_t.error for row in rows]
    return columns


def _limit_columns(config, wrong) -> dict[str, list[float]]:
    columns = {"error of each mean": list(config.backbone.sizes)}
    for kind, rows in wrong.items():
        for name in rows[0].limits:
            columns[f"{kind}, {name}"] = [row.limits[name] for row in rows]
    return columns


def _learned_columns(clients, learned: list[dict[str, float]]) -> dict[str, list[float]]:
    return {"C": list(clients)} | {key: [row[key] for row in learned] for key in learned[0]}


def _wrong_panel(config, wrong, floor: float) -> Panel:
    sizes, curves = config.backbone.sizes, {}
    for kind, rows in wrong.items():
        points = [(x, row.measured.mean) for x, row in zip(sizes, rows, strict=True)]
        curves[kind] = Curve(points, [row.measured.error for row in rows])
    for kind, rows in wrong.items():
        points = [(x, row.at_one_t.mean) for x, row in zip(sizes, rows, strict=True)]
        curves[f"{kind}, at one t"] = Curve(points, [row.at_one_t.error for row in rows])
    for kind, rows in wrong.items():
        points = [(x, row.predicted.mean) for x, row in zip(sizes, rows, strict=True)]
        curves[f"{kind}, predicted"] = Curve(points, is_reference=True)
    curves["exact means"] = Curve([(sizes[0], floor), (sizes[-1], floor)], is_reference=True)
    return Panel("means that are wrong", "error of each mean", "n * MSE", curves, "logy")


def _learned_panel(config: TheoryConfig, learned, floor: float) -> Panel:
    clients, curves = sorted(config.backbone.clients), {}
    for skew, rows in learned.items():
        for key, name in (("measured", "mean"), ("median", "median, by theory")):
            points = [(c, row[key]) for c, row in zip(clients, rows, strict=True)]
            errors = [row["measured +-"] for row in rows] if key == "measured" else []
            curves[f"{name}, Beta({skew:g}, {skew:g})"] = Curve(points, errors)
    curves["exact means"] = Curve([(clients[0], floor), (clients[-1], floor)], is_reference=True)
    return Panel("means learned by EM", "pre-training clients C", "n * MSE", curves)
