"""Messages between the experiment and the clients' side: the setup there, and reports back.

Updates of the shared weights are `spire_core.federated.messages`'s.
n, m: numbers of images, D: features, K: classes.
"""

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


@dataclass(frozen=True)
class LookAt:
    """A look at a new client after an epoch: `guidance` is None for that of the run.

    `is_kept`: with the parts that it keeps. Then distances and signs of copies are looked for.
    """

    client_id: int
    epoch: int
    guidance: float | None = None
    is_kept: bool = False


@dataclass(frozen=True, kw_only=True)
class Look:
    """A new client's scores after an epoch, drawn with a `guidance`; None is that of the run."""

    epoch: int
    guidance: float | None
    scores: dict[str, float]
    heldout: "Tensor"  # (n,) loss on each held-out image
    duration_s: float
    drawn: GeneratedSamples | None = None  # of the first look, and of that at what is kept
    distances: tuple[float, float] | None = None  # to its training and its held-out images
    neighbours: "Neighbours | None" = None


@dataclass(frozen=True, kw_only=True)
class FittedClient:
    """A new client's fit; its parts stay in its file.

    `looks` have been taken between epochs, `asked` are those that are still to be taken. All of the
    curve are with the run's guidance. The one at what a client keeps is with its own, if it has
    chosen one.
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
    asked: tuple[LookAt, ...] = ()


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


def report_of(fitted: FittedClient, looks: Sequence[Look]) -> AdaptReport:
    """Return the report of a fitted client out of all looks at it, in their order."""
    began = next(look.scores.get("elbo") for look in looks if look.epoch == 0)
    looks = [_from_start(look, began) for look in looks]
    seen = {look.epoch: look for look in looks if look.guidance is None}
    [kept] = [look for look in looks if look.distances is not None]
    assert seen[0].drawn is not None
    assert kept.drawn is not None
    assert kept.distances is not None
    curve = tuple(
        point if point.observed is None else replace(point, observed=seen[point.epoch].scores)
        for point in fitted.curve
    )
    spent_s = fitted.duration_s + sum(look.duration_s for look in looks)
    of_fit = vars(fitted) | {"curve": curve, "duration_s": spent_s, "looks": (), "asked": ()}
    return AdaptReport(
        **of_fit,
        before=seen[0].drawn,
        after=kept.drawn,
        scores_after=kept.scores,
        heldout={look.epoch: look.heldout for look in looks},
        nn_train=kept.distances[0],
        nn_test=kept.distances[1],
        neighbours=kept.neighbours,
    )


def _from_start(look: Look, began: float | None) -> Look:
    """Return a look whose `elbo` is the change since before the fit, where it was `began`."""
    if began is None or "elbo" not in look.scores:
        return look
    return replace(look, scores={**look.scores, "elbo": look.scores["elbo"] - began})


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
