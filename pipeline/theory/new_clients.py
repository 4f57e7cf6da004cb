"""New clients outside the hull of old ones, and the mixture of old ones nearest to each."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import Claim, Curve, Panel
from spire_core.partition.coverage import coverage, kl_projections
from spire_core.rng import numpy_generator

NUM_CLASSES = 10
HULL, NEAREST, PROJECTION = "hull, TV", "nearest old client, TV", "projection in KL, TV"


class Coverages(NamedTuple):
    """Claims, tables and the panel of this part."""

    claims: Sequence[Claim]
    tables: Mapping[str, Mapping[str, Sequence[Any]]]
    panel: Panel


def coverage_findings(config: TheoryConfig) -> Coverages:
    """Return distances of new clients to the hull and to their projections on it.

    Old and new clients have Dirichlet mixtures of 10 classes. Labels alone count, no image.
    """
    rows = [_row(config, num_old, i) for i, num_old in enumerate(config.readout.old_clients)]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    is_ordered = all(row[HULL] <= row[PROJECTION] + 1e-9 for row in rows)
    within = all(row[PROJECTION] <= row["Pinsker, TV"] for row in rows)
    first, last = rows[0], rows[-1]
    claims = [
        Claim(
            f"new clients' distance to the best mixture of old ones: TV {first[PROJECTION]:.3f} "
            f"with {first['old clients']} old clients, {last[PROJECTION]:.3f} with "
            f"{last['old clients']}, between the hull's and sqrt(KL / 2)",
            is_ordered and within,
        )
    ]
    title = f"new clients with Dirichlet({config.readout.concentration:g}) mixtures"
    return Coverages(claims, {title: columns}, _panel(rows))


def _row(config: TheoryConfig, num_old: int, point: int) -> dict[str, Any]:
    group = config.readout
    generator = numpy_generator(config.seed, "theory_coverage", point)
    concentration = [group.concentration] * NUM_CLASSES
    projected, hulls, nearest, divergences = [], [], [], []
    for _ in range(group.worlds):
        old = generator.dirichlet(concentration, num_old)
        new = generator.dirichlet(concentration, group.new_clients)
        reached = kl_projections(old, new)
        found = [coverage(old, mixture) for mixture in new]
        hulls += [one.hull_tv for one in found]
        nearest += [one.nearest_tv for one in found]
        projected += list(0.5 * np.abs(reached - new).sum(1))
        divergences += list(np.where(new > 0, new * np.log(new / reached), 0.0).sum(1))
    return {
        "old clients": num_old,
        HULL: float(np.mean(hulls)),
        PROJECTION: float(np.mean(projected)),
        NEAREST: float(np.mean(nearest)),
        "KL": float(np.mean(divergences)),
        "Pinsker, TV": float(np.mean(np.sqrt(0.5 * np.maximum(divergences, 0.0)))),
    }


def _panel(rows: Sequence[Mapping[str, Any]]) -> Panel:
    curves = {
        name: Curve([(row["old clients"], row[name]) for row in rows])
        for name in (HULL, PROJECTION, NEAREST)
    }
    return Panel("new clients outside the hull", "old clients", "TV", curves)
