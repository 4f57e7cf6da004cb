"""Messages between the experiment and the clients' side: the setup there, and reports back.

Updates of the shared weights are `spire_core.federated.messages`'s.
n, m: numbers of images, D: features, K: classes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config.schema import Config
from spire_core.partition.split import Partition
from spire_core.privacy.guarantee import Guarantee

if TYPE_CHECKING:
    from torch import Tensor

    from spire_core.adaptation.adapt import AdaptPoint
    from spire_core.evaluation.memorisation import Neighbours
    from spire_core.evaluation.reference_split import ReferenceSplit


OTHER = "metric."  # before the name of a score by a metric from outside
NEAREST_DRAWS = "nearest_draws"  # a control: of a pre-training client, its own draws


@dataclass(frozen=True)
class WorkerSetup:
    """The setup of a worker, beside all clients' images: the experiment and the partition."""

    config: Config
    mixtures: Mapping[int, np.ndarray]  # true class mixture (K,) of each client with scores
    partition: Partition
    extractor: str  # its name
    folder: Path  # of the run
    tokens: np.ndarray | None = None  # (N, L) captions of all images, for the workers alone
    labels: np.ndarray | None = None  # (N,) their classes, where prompts are scored
    reference: "ReferenceSplit | None" = None  # where scores do not compare with held-out images
    backbone_hash: str | None = None  # of the folder of the run's pre-trained model


@dataclass(frozen=True)
class GeneratedSamples:
    """Images generated as one client, in the form that evaluations need."""

    client_id: int
    features: "Tensor"  # (n, D)
    histogram: np.ndarray | None  # (K,), or (m, K) of as many draws
    images: np.ndarray  # (m, C, H, W) float32, the first few
    # Of a new client with several embeddings: the weight of each, and images drawn with it alone.
    of_each: tuple[tuple[float, np.ndarray], ...] = ()


@dataclass(frozen=True)
class HeldoutLosses:
    """Denoising loss on a client's test images, with its own, the zero, and another embedding.

    None where there is no such embedding: with other methods, and for a client evaluated alone.
    """

    client_id: int
    own: float
    zero: float | None
    swapped: float | None


@dataclass(frozen=True)
class FitPlan:
    """What the fits of all new clients have in common, beside the settings.

    `weights` (P,) of the backbone; `pooled` (n, D): features of the population's held-out images,
    for scores; `mean_emb`: where embeddings start, if at the mean; `clip_norm` of private fits.
    `is_together`: clients train their embeddings in one batch, and are looked at afterwards.
    """

    weights: np.ndarray
    pooled: "Tensor"
    mean_emb: "Tensor | None" = None
    clip_norm: float | None = None
    is_together: bool = False


@dataclass(frozen=True, kw_only=True)
class Look:
    """A look at a new client after an epoch; `epoch` is None for that at the parts that it keeps.

    The latter is with the client's own guidance, if it has chosen one.
    """

    epoch: int | None
    scores: dict[str, float]
    heldout: "Tensor"  # (n,) loss on each held-out image
    duration_s: float
    drawn: GeneratedSamples | None = None  # of the first look, and of that at what is kept
    distances: tuple[float, float] | None = None  # to its training and its held-out images
    neighbours: "Neighbours | None" = None


@dataclass(frozen=True, kw_only=True)
class FittedClient:
    """A new client's fit, with the looks that were taken between its epochs.

    Its parts stay in its file.
    """

    client_id: int
    curve: "tuple[AdaptPoint, ...]"
    kept_epoch: int
    num_trained: int
    fit_duration_s: float  # of its fit alone; of clients side by side, an equal share
    duration_s: float  # of everything but its looks; in a report, of these as well
    guarantee: Guarantee | None = None
    guidance: float | None = None  # as the client has chosen it, if it did
    looks: tuple[Look, ...] = ()

    @property
    def asked(self) -> list[int | None]:
        """The epochs of the looks that are still to be taken, as `Look` has them.

        Without a guidance of its own, the look at what a client keeps is one of its curve as well.
        """
        seen = {look.epoch for look in self.looks}
        observed = [point.epoch for point in self.curve if point.observed is not None]
        due: dict[float, int | None] = {epoch: epoch for epoch in observed if epoch not in seen}
        due[self.kept_epoch if self.guidance is None else math.inf] = None
        return [due[epoch] for epoch in sorted(due)]


@dataclass(frozen=True, kw_only=True)
class AdaptReport(FittedClient):
    """A new client's fit and the looks at it as one report."""

    before: GeneratedSamples
    after: GeneratedSamples
    scores_after: dict[str, float]  # of the kept state, by the names of the curve's observations
    # By evaluated epoch: loss (n,) on each held-out image.
    heldout: "Mapping[int, Tensor]"
    nn_train: float  # mean distance of generated images to the nearest training image
    nn_test: float  # the same to the nearest held-out image, over as many of them
    neighbours: "Neighbours | None" = None  # of generated images; None where no test is valid


def report_of(fitted: FittedClient, asked: Sequence[Look]) -> AdaptReport:
    """Return the report of a fitted client, with the looks that it has asked for."""
    kept = next(look for look in asked if look.epoch is None)
    seen = {look.epoch: look for look in (*fitted.looks, *asked) if look.epoch is not None}
    heldout = {epoch: look.heldout for epoch, look in seen.items()}
    if fitted.guidance is None:
        seen[fitted.kept_epoch] = kept
    assert seen[0].drawn is not None
    assert kept.drawn is not None
    assert kept.distances is not None
    began = seen[0].scores.get("elbo", 0.0)

    def scores(look: Look) -> dict[str, float]:  # whose `elbo` is the change since the start
        changed = {"elbo": look.scores["elbo"] - began} if "elbo" in look.scores else {}
        return look.scores | changed

    curve = tuple(
        point if point.observed is None else replace(point, observed=scores(seen[point.epoch]))
        for point in fitted.curve
    )
    spent_s = fitted.duration_s + sum(look.duration_s for look in (*fitted.looks, *asked))
    return AdaptReport(
        **vars(fitted) | {"curve": curve, "duration_s": spent_s, "looks": ()},
        before=seen[0].drawn,
        after=kept.drawn,
        scores_after=scores(kept),
        heldout=heldout | {fitted.kept_epoch: kept.heldout},
        nn_train=kept.distances[0],
        nn_test=kept.distances[1],
        neighbours=kept.neighbours,
    )


@dataclass(frozen=True)
class ControlPlan:
    """The images of a new client's controls, by name: positions among all clients' images.

    `drawn_as`: the pre-training client whose model draws for the control `nearest_draws`.
    """

    positions: Mapping[str, np.ndarray]
    drawn_as: int | None = None


@dataclass(frozen=True, eq=False)
class ControlScores:
    """The scores of a control's images, as those of images that a new client has drawn.

    `features` (n, D) of some of the images, for scores over all clients.
    """

    kid: float
    tv: float | None
    neighbours: "Neighbours | None"  # None where no test is valid
    scores: Mapping[str, float]  # that copies cannot win
    features: "Tensor"
