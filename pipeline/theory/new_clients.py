"""New clients outside the hull of old ones, and the mixture of old ones nearest to each."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.config.load import load_config
from pipeline.data.datasets import describe, load
from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import Claim, Curve, Panel
from spire_core.config.checks import require
from spire_core.partition.coverage import NEGLIGIBLE, coverage, is_reachable, kl_projections
from spire_core.partition.split import make_partition
from spire_core.rng import numpy_generator

NUM_CLASSES = 10
PRESET, SEEDS = "mnist-cpu", (0, 1, 2)
HULL, NEAREST, PROJECTION = "hull, TV", "nearest old client, TV", "projection in KL, TV"
PINSKER = "Pinsker, TV"
ROUNDING = 1e-6  # of a linear programme and of a projection, in TV


class Coverages(NamedTuple):
    """Claims, tables and the panel of this part."""

    claims: Sequence[Claim]
    tables: Mapping[str, Mapping[str, Sequence[Any]]]
    panel: Panel


def coverage_findings(config: TheoryConfig) -> Coverages:
    """Return distances of new clients to the hull and to their projections on it.

    Old and new clients have Dirichlet mixtures of 10 classes, or those of a preset's worlds. Labels
    alone count, no image.
    """
    found = [
        (num_old, _distances(_worlds(config, num_old, i)))
        for i, num_old in enumerate(config.readout.old_clients)
    ]
    rows = [{"old clients": num_old} | own.means for num_old, own in found]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    first, last = rows[0], rows[-1]
    claims = [
        Claim(
            f"new clients' distance to the best mixture of old ones: TV {first[PROJECTION]:.3f} "
            f"with {first['old clients']} old clients, {last[PROJECTION]:.3f} with "
            f"{last['old clients']}, between the hull's {first[HULL]:.3f} and {last[HULL]:.3f} and "
            f"sqrt(KL / 2), {first[PINSKER]:.3f} and {last[PINSKER]:.3f}",
        )
    ]
    distances = [own for _, own in found]
    tables: dict[str, Mapping[str, Sequence[Any]]]
    tables = {f"new clients with Dirichlet({config.readout.concentration:g}) mixtures": columns}
    if config.readout.data == "mnist" and describe("mnist")["ok"]:
        own_worlds = _preset_worlds()
        worlds, distances = [own.means for own in own_worlds], distances + own_worlds
        tables[f"new clients of the preset {PRESET}"] = {"seed": list(SEEDS)} | {
            name: [world[name] for world in worlds] for name in worlds[0]
        }
        means = [float(np.mean([world[name] for world in worlds])) for name in (HULL, PROJECTION)]
        text = f"new clients of the preset {PRESET}, seeds {SEEDS[0]} to {SEEDS[-1]}: hull at TV "
        claims.append(Claim(f"{text}{means[0]:.3f}, projection at {means[1]:.3f}"))
    return Coverages([_bounds(distances), *claims], tables, _panel(rows))


def _bounds(found: Sequence["Distances"]) -> Claim:
    """Return whether each client's distances are in the order that they have to be in."""
    hull, projection, pinsker = (
        np.concatenate([getattr(own, name) for own in found])
        for name in ("hull", "projection", "pinsker")
    )
    gap = min(float((projection - hull).min()), float((pinsker - projection).min()))
    return Claim(
        f"each of {len(hull)} new clients: hull TV <= TV of the projection <= sqrt(KL / 2), "
        f"with a gap of {gap:.1e} or more",
        gap >= -ROUNDING,
    )


def check_coverage(config: TheoryConfig) -> None:
    """Raise ConfigError if a new client has a class that no old client of its world has."""
    for point, num_old in enumerate(config.readout.old_clients):
        require(
            all(is_reachable(*world).all() for world in _worlds(config, num_old, point)),
            "entries of readout.old_clients with which old clients have all classes of new ones",
            num_old,
            "the divergence from their hull is infinite, so raise it or readout.concentration",
        )


def _worlds(config: TheoryConfig, num_old: int, point: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the mixtures of old and of new clients in each world."""
    group = config.readout
    generator = numpy_generator(config.seed, "theory_coverage", point)
    concentration = [group.concentration] * NUM_CLASSES
    return [
        (generator.dirichlet(concentration, num_old), generator.dirichlet(concentration, num_new))
        for num_new in [group.new_clients] * group.worlds
    ]


def _preset_worlds() -> list["Distances"]:
    """Return the distances in the worlds of a preset, one for each seed."""
    config, found = load_config(PRESET, []), []
    labels, federation = load(config.data, "train").labels, config.federation
    clients = federation.num_clients, federation.num_new_clients
    for seed in SEEDS:
        partition = make_partition(
            labels, NUM_CLASSES, config.partition, *clients, seed, config.adapt.num_images
        )
        counts = partition.class_counts(labels, NUM_CLASSES)
        mixtures = counts / counts.sum(1, keepdims=True)
        found.append(_distances([(mixtures[: clients[0]], mixtures[clients[0] :])]))
    return found


class Distances(NamedTuple):
    """Of each new client (N,), and their means by the names of a table's columns."""

    hull: np.ndarray
    projection: np.ndarray
    pinsker: np.ndarray
    means: dict[str, float]


def _distances(worlds: Sequence[tuple[np.ndarray, np.ndarray]]) -> Distances:
    """Return the distances of the new clients of worlds of old and new mixtures."""
    projected, hulls, nearest, divergences = [], [], [], []
    for old, new in worlds:
        reached = kl_projections(old, new)
        found = [coverage(old, mixture) for mixture in new]
        hulls += [one.hull_tv for one in found]
        nearest += [one.nearest_tv for one in found]
        projected += list(0.5 * np.abs(reached - new).sum(1))
        logs = np.log(np.divide(new, reached, out=np.ones_like(new), where=new > NEGLIGIBLE))
        divergences += list((new * logs).sum(1))
    pinsker = np.sqrt(0.5 * np.maximum(divergences, 0.0))
    means = {
        HULL: float(np.mean(hulls)),
        PROJECTION: float(np.mean(projected)),
        NEAREST: float(np.mean(nearest)),
        "KL": float(np.mean(divergences)),
        PINSKER: float(np.mean(pinsker)),
    }
    return Distances(np.array(hulls), np.array(projected), pinsker, means)


def _panel(rows: Sequence[Mapping[str, Any]]) -> Panel:
    curves = {
        name: Curve([(row["old clients"], row[name]) for row in rows])
        for name in (HULL, PROJECTION, NEAREST)
    }
    return Panel("new clients outside the hull", "old clients", "TV", curves)
