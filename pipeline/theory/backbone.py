"""Experiment E: a new client's weight when the means, the backbone, are wrong or learned."""

import math

import numpy as np
import torch
from torch import Tensor

from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import NUM_ERRORS, Claim, Curve, Outcome, Panel, Score, score
from spire_core.mixture.estimators import maximum_likelihood
from spire_core.mixture.exact_errors import cramer_rao
from spire_core.mixture.inexact_means import (
    Line,
    believed_error,
    draw_on_line,
    learn_means,
    line_of,
    perturbed,
)
from spire_core.mixture.two_components import normals
from spire_core.rng import numpy_generator

KINDS = ("isotropic", "scale", "shift")


def run_backbone(config: TheoryConfig) -> Outcome:
    """Return the new client's n * MSE against the size of an error, and against C."""
    group = config.backbone
    mu = torch.full((group.d,), group.m / math.sqrt(group.d), dtype=torch.float64)
    floor = group.n * cramer_rao(config.w, group.m, group.n)
    wrong = {kind: _wrong(config, mu, kind, i) for i, kind in enumerate(KINDS)}
    learned = [_learned(config, mu, c, i) for i, c in enumerate(group.clients)]
    off = max(
        abs(measured.mean - predicted.mean) / math.hypot(measured.error, predicted.error)
        for rows in wrong.values()
        for measured, predicted in rows
    )
    medians = [row["median"] for row in learned]
    last = wrong["shift"][-1][0].mean, wrong["isotropic"][-1][0].mean, wrong["scale"][-1][0].mean
    claims = [
        Claim(
            f"measured and predicted errors differ by {off:.1f} standard errors at most",
            off <= NUM_ERRORS,
        ),
        Claim(
            f"means off by {group.sizes[-1]:g} each: n * MSE {last[0]:.2f} if both shift along mu, "
            f"{last[1]:.2f} in random directions, {last[2]:.2f} if too far apart (exact means: "
            f"{floor:.3f})",
        ),
        Claim(
            f"learned from C = {group.clients[0]} .. {group.clients[-1]} clients of "
            f"{group.client_n}: median n * MSE {medians[0]:.3f} .. {medians[-1]:.3f}",
            medians[-1] <= medians[0],
        ),
    ]
    tables = {"means that are wrong, as n * MSE": _wrong_columns(config, wrong, floor)}
    tables["means learned from C clients, as n * MSE"] = _learned_columns(group.clients, learned)
    return Outcome(
        "backbone",
        f"E: w = {config.w:g} on means that are not exact, d = {group.d}, ||mu|| = {group.m:g}",
        claims,
        tables,
        [_wrong_panel(config, wrong, floor), _learned_panel(group.clients, learned, floor)],
        {"floor": floor, "learned_last": medians[-1]},
    )


def _errors(
    config: TheoryConfig, line: Line, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Return each replicate's n * squared error, measured and as theory predicts; (R,) each."""
    group = config.backbone
    y = draw_on_line(config.w, line, group.n, generator)
    measured = group.n * (maximum_likelihood(y, line.m) - config.w) ** 2
    return measured, group.n * believed_error(config.w, line, group.n)


def _wrong(config: TheoryConfig, mu: Tensor, kind: str, point: int) -> list[tuple[Score, Score]]:
    group, rows = config.backbone, []
    for i, size in enumerate(group.sizes):
        generator = numpy_generator(config.seed, "theory_wrong", point, i)
        plus, minus = perturbed(mu, kind, size, group.replicates, generator)
        measured, predicted = _errors(config, line_of(plus, minus, mu), generator)
        rows.append((score(measured), score(predicted)))
    return rows


def _learned(config: TheoryConfig, mu: Tensor, num_clients: int, point: int) -> dict[str, float]:
    group = config.backbone
    generator = numpy_generator(config.seed, "theory_learned", point)
    shape = (group.learned, num_clients, group.client_n)
    w = torch.from_numpy(generator.beta(group.skew, group.skew, shape[:2]))
    is_first = torch.from_numpy(generator.random(shape)) < w[..., None]
    x = normals(generator, *shape, group.d) + torch.where(is_first[..., None], mu, -mu)
    plus, minus = learn_means(x, mu)
    errors, predicted = _errors(config, line_of(plus, minus, mu), generator)
    off = torch.stack([(plus - mu).norm(dim=-1), (minus + mu).norm(dim=-1)])
    measured = score(errors)
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
        columns[kind] = [measured.mean for measured, _ in rows]
        columns[f"{kind} +-"] = [measured.error for measured, _ in rows]
        columns[f"{kind}, predicted"] = [predicted.mean for _, predicted in rows]
    return columns | {"Cramer-Rao": [floor] * len(config.backbone.sizes)}


def _learned_columns(clients, learned: list[dict[str, float]]) -> dict[str, list[float]]:
    return {"C": list(clients)} | {key: [row[key] for row in learned] for key in learned[0]}


def _wrong_panel(config, wrong, floor: float) -> Panel:
    sizes, curves = config.backbone.sizes, {}
    for kind, rows in wrong.items():
        points = [(x, measured.mean) for x, (measured, _) in zip(sizes, rows, strict=True)]
        curves[kind] = Curve(points, [measured.error for measured, _ in rows])
    for kind, rows in wrong.items():
        points = [(x, predicted.mean) for x, (_, predicted) in zip(sizes, rows, strict=True)]
        curves[f"{kind}, predicted"] = Curve(points, is_reference=True)
    curves["exact means"] = Curve([(sizes[0], floor), (sizes[-1], floor)], is_reference=True)
    return Panel("means that are wrong", "error of each mean", "n * MSE", curves, "logy")


def _learned_panel(clients, learned: list[dict[str, float]], floor: float) -> Panel:
    def points(key: str) -> list[tuple[float, float]]:
        return [(c, row[key]) for c, row in zip(clients, learned, strict=True)]

    curves = {
        "mean": Curve(points("measured"), [row["measured +-"] for row in learned]),
        "mean, by theory": Curve(points("predicted"), is_reference=True),
        "median, by theory": Curve(points("median")),
        "exact means": Curve([(clients[0], floor), (clients[-1], floor)], is_reference=True),
    }
    return Panel("means learned by EM", "pre-training clients C", "n * MSE", curves)
