"""New clients outside the hull of old ones, and the mixture of old ones nearest to each."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pipeline.config.load import load_config
from pipeline.data.datasets import load
from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import Claim, Outcome, Panel
from spire_core.partition.coverage import NEGLIGIBLE, coverage, kl_projection
from spire_core.partition.split import make_partition
from spire_core.rng import numpy_generator

NUM_CLASSES, CONCENTRATION = 10, 0.1
OLD_CLIENTS, NEW_CLIENTS, WORLDS = (8, 24, 96, 384), 20, 5
PRESET, SEEDS = "mnist-cpu", (0, 1, 2)
OLD, HULL, PROJECTION = "old clients", "hull, TV", "projection in KL, TV"
NEAREST, PINSKER = "nearest old client, TV", "Pinsker, TV"
ROUNDING = 1e-6  # of a linear programme and of a projection, in TV
World = tuple[np.ndarray, np.ndarray]  # mixtures of old clients (M, K) and of new ones (N, K)


def run_new_clients(config: TheoryConfig, has_images: bool) -> Outcome:
    """Return distances of new clients to the hull and to their projections on it.

    Old and new clients have Dirichlet mixtures of 10 classes, or those of a preset's worlds. Labels
    alone count, no image.
    """
    drawn = {num: distances(_worlds(config, num, i)) for i, num in enumerate(OLD_CLIENTS)}
    rows = _means(drawn, OLD)
    tables = {f"new clients with Dirichlet({CONCENTRATION:g}) mixtures": rows}
    first, last = rows.iloc[0], rows.iloc[-1]
    claims = [
        Claim(
            f"new clients' distance to the best mixture of old ones: TV {first[PROJECTION]:.3f} "
            f"with {first[OLD]:g} old clients, {last[PROJECTION]:.3f} with "
            f"{last[OLD]:g}, between the hull's {first[HULL]:.3f} and {last[HULL]:.3f} and "
            f"sqrt(KL / 2), {first[PINSKER]:.3f} and {last[PINSKER]:.3f}",
        )
    ]
    found = list(drawn.values())
    if has_images:
        preset = {seed: distances([_preset_world(seed)]) for seed in SEEDS}
        found += preset.values()
        worlds = _means(preset, "seed")
        tables[f"new clients of the preset {PRESET}"] = worlds
        claims.append(
            Claim(
                f"new clients of the preset {PRESET}, seeds {SEEDS[0]} to {SEEDS[-1]}: hull at TV "
                f"{worlds[HULL].mean():.3f}, projection at {worlds[PROJECTION].mean():.3f}"
            )
        )
    by_old, curves = rows.set_index(OLD), [HULL, PROJECTION, NEAREST]
    panel = Panel("new clients outside the hull", "TV", by_old, curves)
    return Outcome("new clients", [_order_claim(pd.concat(found)), *claims], tables, [panel])


def _means(found: dict[int, pd.DataFrame], name: str) -> pd.DataFrame:
    return pd.DataFrame([{name: key, **own.mean()} for key, own in found.items()])


def _order_claim(found: pd.DataFrame) -> Claim:
    """Return whether each client's distances are in the order that they have to be in."""
    gap = min((found[PROJECTION] - found[HULL]).min(), (found[PINSKER] - found[PROJECTION]).min())
    return Claim(
        f"each of {len(found)} new clients: hull TV <= TV of the projection <= sqrt(KL / 2), "
        f"with a gap of {gap:.1e} or more",
        gap >= -ROUNDING,
    )


def _worlds(config: TheoryConfig, num_old: int, point: int) -> list[World]:
    generator = numpy_generator(config.seed, "theory_coverage", point)
    concentration = [CONCENTRATION] * NUM_CLASSES
    return [
        (generator.dirichlet(concentration, num_old), generator.dirichlet(concentration, num_new))
        for num_new in [NEW_CLIENTS] * WORLDS
    ]


def _preset_world(seed: int) -> World:
    config = load_config(PRESET)
    labels, federation = load(config.data, "train").labels, config.federation
    num_old, num_new = federation.num_clients, federation.num_new_clients
    partition = make_partition(
        labels, config.partition, num_old, num_new, seed, config.adapt.num_images
    )
    counts = partition.class_counts(labels, NUM_CLASSES)
    mixtures = counts / counts.sum(1, keepdims=True)
    return mixtures[:num_old], mixtures[num_old:]


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
