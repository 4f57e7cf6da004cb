"""Controls of new clients: sets of images that no fit has drawn, to be scored as if one had.

`copies`: the training images that the client fits, at the best that memorising can do. `fresh`:
images of others with the client's class mixture, which a perfect model draws. `nearest_draws`: the
images of the pre-training client whose data are most alike, drawn by its own model;
`nearest_images`, where methods have no model of a client's own: its real images.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.federation.messages import ControlPlan
from spire_core.adaptation.set_aside import fitted_split
from spire_core.evaluation.image_metrics import total_variation
from spire_core.partition.split import ClientSplit, Partition, class_mixture
from spire_core.partition.styles import amount_of
from spire_core.rng import numpy_generator

COPIES, FRESH, NEAREST_IMAGES = "copies", "fresh", "nearest_images"


@dataclass(frozen=True)
class ControlRule:
    """What the controls of an experiment are made of.

    `labels` (N,) of all images; `candidates`: pre-training clients, of which one is the nearest;
    `style` as in the settings; `has_own_models`: whether pre-training clients draw by themselves;
    `num_images` of each control; `sets_aside`: whether a new client leaves out training images as
    it fits.
    """

    partition: Partition
    labels: np.ndarray
    num_classes: int
    candidates: Sequence[int]
    style: str
    has_own_models: bool
    num_images: int
    seed: int
    sets_aside: bool = False

    def plan(self, client_id: int) -> ControlPlan:
        """Return the controls of a new client."""
        split = self.partition.split(client_id)
        # Each training image equally often: the lowest score that a model which copies can have.
        train = fitted_split(split, self.sets_aside, self.seed).train
        copies = np.resize(train, max(self.num_images, len(train)))
        positions, nearest = {COPIES: copies}, self.nearest(client_id)
        if (fresh := self._fresh(split)) is not None:
            positions[FRESH] = fresh
        if nearest is None or self.has_own_models:
            return ControlPlan(positions, nearest)
        # Each once: KID takes images for draws that are independent, which repeated ones are not.
        images = _held(self.partition.split(nearest))[: self.num_images]
        return ControlPlan(positions | {NEAREST_IMAGES: images})

    def nearest(self, client_id: int) -> int | None:
        """Return the candidate whose data are most like a new client's; None without candidates.

        The distance is the total variation between class mixtures and, with styles, the share of
        the range of styles that lies between the two.
        """
        if not self.candidates:
            return None
        return min(self.candidates, key=lambda old: self._distance(client_id, old))

    def _distance(self, client_id: int, old: int) -> float:
        between = total_variation(self._mixture(client_id), self._mixture(old))
        if self.style == "none":
            return between
        styles = abs(amount_of(client_id, self.seed) - amount_of(old, self.seed)) / 2
        return between + (min(styles, 1 - styles) if self.style == "tint" else styles)

    def _mixture(self, client_id: int) -> np.ndarray:
        held = _held(self.partition.split(client_id))
        return class_mixture(self.labels, held, self.num_classes)

    def _fresh(self, split: ClientSplit) -> np.ndarray | None:
        """Return positions of images that are not the client's, with its class mixture.

        None where other clients' images of a class differ from its own (styles, clients that
        exist), or where a class has too few.
        """
        if self.style != "none" or self.partition.names:
            return None
        rng = numpy_generator(self.seed, "fresh", split.client_id)
        mixture = class_mixture(self.labels, _held(split), self.num_classes)
        is_other = np.ones(len(self.labels), dtype=bool)
        is_other[_held(split)] = False
        chosen = []
        for label, wanted in enumerate(rng.multinomial(self.num_images, mixture)):
            pool = np.flatnonzero(is_other & (self.labels == label))
            if len(pool) < wanted:
                return None
            chosen.append(rng.choice(pool, wanted, replace=False))
        return np.concatenate(chosen)


def _held(split: ClientSplit) -> np.ndarray:
    return np.concatenate([split.train, split.test])
