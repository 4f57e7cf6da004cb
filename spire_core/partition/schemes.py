"""Partition schemes, as functions `(labels, config, M, rng) -> Held`, and independent draws.

The schemes have the names and meanings of Flower Datasets' partitioners. `independent_images` draws
one client's images without regard to the others. Shapes: N images with labels (N,), K classes,
M clients (old and new together).
"""

import numpy as np

from spire_core.config.checks import require
from spire_core.config.partition import OTHER_PARTITIONS, PartitionConfig
from spire_core.errors import ConfigError, DataError
from spire_core.rng import numpy_generator

NUM_DRAWS = 21  # of a split, until no client is below `min_size`

Held = list[np.ndarray]  # per client the indices of its images
Rng = np.random.Generator


def _sizes(num_images: int, config: PartitionConfig, num: int) -> list[int]:
    size = config.client_size
    if size is None:
        return [len(part) for part in np.array_split(np.empty(num_images), num)]
    if size * num > num_images:
        raise DataError(
            f"expected at least {size * num} images for {num} clients with client_size {size}, "
            f"got {num_images}: use fewer clients or a smaller partition.client_size"
        )
    return [size] * num


def _iid(labels: np.ndarray, config: PartitionConfig, num: int, rng: Rng) -> Held:
    """Deal out all images at random, in equal parts."""
    bounds = np.cumsum(_sizes(len(labels), config, num))
    return np.split(rng.permutation(len(labels)), bounds)[:num]


def of_each_class(labels: np.ndarray) -> Held:
    """Return the image indices of each class that occurs."""
    return [np.flatnonzero(labels == k) for k in np.unique(labels)]


def _pools(labels: np.ndarray, rng: Rng) -> Held:
    """Return the image indices of each class that occurs, in random order."""
    return [rng.permutation(pool) for pool in of_each_class(labels)]


def _dirichlet(labels: np.ndarray, config: PartitionConfig, num: int, rng: Rng) -> Held:
    """Cut each class by shares drawn from Dirichlet(alpha) over the clients (Yurochkin et al. 2019,
    as in Flower with `self_balancing=False`)."""
    parts = []
    for pool in _pools(labels, rng):
        shares = rng.dirichlet(np.full(num, config.alpha))
        bounds = (np.cumsum(shares)[:-1] * len(pool)).astype(np.int64)
        parts.append(np.split(pool, bounds))
    return [np.concatenate(of_client) for of_client in zip(*parts, strict=True)]


def _inner_dirichlet(labels: np.ndarray, config: PartitionConfig, num: int, rng: Rng) -> Held:
    """Draw each client's class prior from Dirichlet(alpha), then its images one by one from it.

    Images are drawn without replacement, and clients take turns in random order (Acar et al. 2021,
    as in Flower). When a class pool is empty, the class leaves every prior and the rest of the
    prior is renormalised, as in Flower. A client whose prior is empty continues in proportion to
    the pools' sizes (Flower divides by zero there). Without `client_size` all images are dealt, so
    the last ones follow the pools more than the priors.
    """
    pools = [list(pool) for pool in _pools(labels, rng)]
    priors = rng.dirichlet(np.full(len(pools), config.alpha), size=num)
    sizes = _sizes(len(labels), config, num)
    turns = rng.permutation(np.repeat(np.arange(num), sizes))
    held: list[list[int]] = [[] for _ in range(num)]
    for client_id, point in zip(turns, rng.random(len(turns)), strict=True):
        if not priors[client_id].any():
            priors[client_id] = [len(pool) for pool in pools]
        cumulative = np.cumsum(priors[client_id])
        k = int(np.searchsorted(cumulative / cumulative[-1], point, side="right"))
        held[client_id].append(pools[k].pop())
        if not pools[k]:
            priors[:, k] = 0
    return [np.asarray(h, dtype=np.int64) for h in held]


def _pathological(labels: np.ndarray, config: PartitionConfig, num: int, rng: Rng) -> Held:
    """Give a client `classes_per_client` distinct classes; cut each class equally over its holders.

    Each client in turn takes the classes with the fewest holders so far, ties at random. With
    enough clients all classes are therefore in use, with almost equal numbers of holders.
    """
    pools = _pools(labels, rng)
    k = config.classes_per_client
    if k > len(pools):
        raise ConfigError(
            f"expected at most {len(pools)} partition.classes_per_client, got {k}: lower it"
        )
    is_holder = np.zeros((num, len(pools)), dtype=bool)
    num_holders = np.zeros(len(pools), dtype=np.int64)
    for row in is_holder:
        row[np.lexsort((rng.random(len(pools)), num_holders))[:k]] = True
        num_holders += row
    held: list[Held] = [[] for _ in range(num)]
    for pool, clients in zip(pools, map(np.flatnonzero, is_holder.T), strict=True):
        if len(clients) > 0:
            for client_id, part in zip(clients, np.array_split(pool, len(clients)), strict=True):
                held[client_id].append(part)
    return [np.concatenate(parts) for parts in held]


def independent_images(pools: Held, size: int, alpha: float, rng: Rng) -> np.ndarray:
    """Return `size` different images for one client, drawn from pools of each class.

    Its class prior is drawn from Dirichlet(alpha), then the number of images of each class, then
    the images.
    """
    counts = rng.multinomial(size, rng.dirichlet(np.full(len(pools), alpha)))
    held = [rng.choice(p, n, replace=False) for p, n in zip(pools, counts, strict=True) if n]
    return np.concatenate(held)


SCHEMES = {
    "iid": _iid,
    "dirichlet": _dirichlet,
    "inner_dirichlet": _inner_dirichlet,
    "pathological": _pathological,
}


def _outside(labels: np.ndarray, config: PartitionConfig, num: int, rng: Rng) -> Held:
    """Return what a function of another package deals out; ConfigError if an image goes twice."""
    plugin = OTHER_PARTITIONS.find(config.name)
    assert plugin is not None  # else the settings are refused
    held = [np.asarray(own, np.int64) for own in plugin.value(labels, config, num, rng)]
    dealt = np.concatenate(held)
    is_split = len(held) == num and len(np.unique(dealt)) == len(dealt)
    got = f"{len(held)} clients with {len(dealt)} images, {len(np.unique(dealt))} different ones"
    require(is_split, f"{num} clients without a common image", got, f"mend {config.name}")
    return held


def draw_held(labels: np.ndarray, config: PartitionConfig, num: int, seed: int) -> Held:
    """Return the images of each client in the first draw of a scheme that leaves none too small.

    DataError if a client has fewer than `min_size` images in each of `NUM_DRAWS` draws.
    """
    if num * config.min_size > len(labels):
        raise DataError(
            f"expected at least {config.min_size} images for each of {num} clients, new ones "
            f"included, got {len(labels)} in all: use fewer clients or lower partition.min_size"
        )
    smallest = 0
    for attempt in range(NUM_DRAWS):
        rng = numpy_generator(seed, "partition", attempt)
        held = SCHEMES.get(config.name, _outside)(labels, config, num, rng)
        smallest = max(smallest, min(len(h) for h in held))
        if smallest >= config.min_size:
            return held
    raise DataError(
        f"expected at least {config.min_size} images for each of {num} clients, got {smallest} at "
        f"best in {NUM_DRAWS} draws: use fewer clients, a larger partition.alpha or a smaller "
        "partition.min_size"
    )
