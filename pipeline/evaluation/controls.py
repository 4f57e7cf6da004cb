"""Controls of clients: sets of images that no fit has drawn, to be scored as if one had.

`copies`: the training images that the client fits, at the best that memorising can do. `fresh`:
images of others with the client's class mixture, which a perfect model draws. `nearest_draws`: the
images of the pre-training client whose data are most alike, drawn by its own model;
`nearest_images`, where methods have no model of a client's own: its real images. A pre-training
client is the nearest to itself, so that it has its own draws beside the first two.
"""

import numpy as np

from pipeline.federation.messages import ControlPlan
from pipeline.federation.setup import FederationSetup
from spire_core.evaluation.image_metrics import total_variation
from spire_core.partition.split import ClientSplit, class_mixture
from spire_core.partition.styles import amount_of
from spire_core.rng import numpy_generator

COPIES, FRESH, NEAREST_IMAGES = "copies", "fresh", "nearest_images"
MAX_OLD = 8  # pre-training clients with controls: each draws once more


def control_plan(setting: FederationSetup, client_id: int) -> ControlPlan:
    """Return the controls of a client."""
    config, split = setting.config, setting.partition.split(client_id)
    num_images, train = config.eval.num_images, setting.fitted_split(client_id).train
    if not config.is_new(client_id) and len(train) > num_images:  # it may have thousands
        train = numpy_generator(config.seed, COPIES, client_id).choice(train, num_images, False)
    # Each training image equally often: the lowest score that a model which copies can have.
    positions = {COPIES: np.resize(train, max(num_images, len(train)))}
    if (fresh := _fresh(setting, split)) is not None:
        positions[FRESH] = fresh
    if not config.is_new(client_id):
        return ControlPlan(positions, client_id)
    nearest = nearest_client(setting, client_id)
    if nearest is None or config.method.record.is_personal:
        return ControlPlan(positions, nearest)
    # Each once: KID takes images for draws that are independent, which repeated ones are not.
    images = _held(setting.partition.split(nearest))[:num_images]
    return ControlPlan(positions | {NEAREST_IMAGES: images})


def nearest_client(setting: FederationSetup, client_id: int) -> int | None:
    """Return the representative client whose data are most like a new client's; None without any.

    The distance is the total variation between class mixtures and, with styles, the share of the
    range of styles that lies between the two.
    """
    config = setting.config

    def distance(old: int) -> float:
        mixtures = [_mixture(setting, setting.partition.split(c)) for c in (client_id, old)]
        between = total_variation(*mixtures)
        if config.partition.style == "none":
            return between
        styles = abs(amount_of(client_id, config.seed) - amount_of(old, config.seed)) / 2
        return between + (min(styles, 1 - styles) if config.partition.style == "tint" else styles)

    return min(setting.representative_ids, key=distance, default=None)


def _fresh(setting: FederationSetup, split: ClientSplit) -> np.ndarray | None:
    """Return positions of images that are not the client's, with its class mixture.

    None where other clients' images of a class differ from its own (styles, clients that exist), or
    where a class has too few.
    """
    config, labels = setting.config, setting.data.labels
    if config.partition.style != "none" or setting.partition.names:
        return None
    rng = numpy_generator(config.seed, "fresh", split.client_id)
    is_other = np.ones(len(labels), dtype=bool)
    is_other[_held(split)] = False
    chosen = []
    counts = rng.multinomial(config.eval.num_images, _mixture(setting, split))
    for label, wanted in enumerate(counts):
        pool = np.flatnonzero(is_other & (labels == label))
        if len(pool) < wanted:
            return None
        chosen.append(rng.choice(pool, wanted, replace=False))
    return np.concatenate(chosen)


def _mixture(setting: FederationSetup, split: ClientSplit) -> np.ndarray:
    return class_mixture(setting.data.labels, _held(split), len(setting.data.class_names))


def _held(split: ClientSplit) -> np.ndarray:
    return np.concatenate([split.train, split.test])
