"""Settings of the adaptation of new clients (`adapt.*`)."""

import math
from dataclasses import dataclass
from typing import Annotated

from spire_core.config.checks import Choice, Range, check_fields, require
from spire_core.config.eval import MAX_GUIDANCE
from spire_core.config.model import ModelConfig
from spire_core.methods import CLIENT_EMB, Method

MAX_SCALES = 16  # a client draws as many sets of images as there are scales


@dataclass(frozen=True)
class AdaptConfig:
    """How a new client trains.

    `lr`: None takes the method's own rate. `num_images`: the most training images of a new client.
    `init`: its embedding starts at "zero", at the "mean" of the pre-training embeddings, or at a
    "random" draw from the distribution of their own start. `local_init`: its local layers start as
    the last copy that was "shared", or as the "mean" of the pre-training clients' own. `draws`:
    noise draws per image and step; None takes as many as fill a batch, so that a few images give a
    step as steady as many do. `schedule`: the rate stays, or falls along half a cosine from the
    first step to the last. `average`: the share of the last steps whose mean takes the place of the
    last iterate (Polyak & Juditsky 1992). `pull`: the factor mu of mu/2 ||w - w_0||^2, which holds
    the parts w of the network that a new client trains near those of the backbone, w_0.

    `early_stopping`: a fifth of its images is set aside, the epoch with the lowest denoising loss
    on them is kept (0 is the start), and training ends after 5 epochs without a better one.
    `guidance`: scales of guidance of which it takes, after its fit, the one whose drawings are
    nearest to images that are set aside likewise; None is `eval.guidance` for all.

    `eval_every`: epochs between two points of the forgetting curves. `group_size`: new clients
    fitted in one batch, in the order of their ids, if each trains an embedding alone. Float sums
    differ in their last bits from one size to another, so it is part of what determines a result.
    `tune_epochs`: passes of a pre-training client over all its own images, in which it trains on
    after the rounds what a new client trains, to be scored once more; the result is not kept.
    """

    epochs: Annotated[int, Range(1, 1_000_000)] = 30
    lr: Annotated[float | None, Range(above=0, at_most=1000)] = None
    batch_size: Annotated[int, Range(1, 100_000)] = 16
    num_images: Annotated[int | None, Range(1)] = None
    init: Annotated[str, Choice("zero", "mean", "random")] = "zero"
    local_init: Annotated[str, Choice("shared", "mean")] = "shared"
    draws: Annotated[int | None, Range(1, 10_000)] = 1
    schedule: Annotated[str, Choice("constant", "cosine")] = "constant"
    average: Annotated[float, Range(0, 1)] = 0.0
    pull: Annotated[float, Range(0, 1000)] = 0.0
    early_stopping: bool = False
    guidance: Annotated[tuple[float, ...] | None, Range(0, MAX_GUIDANCE)] = None
    eval_every: Annotated[int, Range(1)] = 1
    group_size: Annotated[int, Range(1)] = 8
    tune_epochs: Annotated[int, Range(0)] = 0

    def __post_init__(self) -> None:
        check_fields(self, "adapt")
        scales = self.guidance
        is_choice = scales is None or 1 < len(set(scales)) == len(scales) <= MAX_SCALES
        wanted = f"2 to {MAX_SCALES} different scales as adapt.guidance"
        require(is_choice, wanted, list(scales or ()), "such as [1, 1.5, 2, 3], or null")

    @property
    def sets_aside(self) -> bool:
        """Whether a new client keeps a share of its images for a choice, and fits the others."""
        return self.early_stopping or self.guidance is not None

    def draws_of(self, num_images: int) -> int:
        """Return the noise draws per image of a batch of so many images."""
        return self.draws or max(1, self.batch_size // num_images)

    def num_rows(self, num_images: int) -> int:
        """Return the rows of an epoch over so many images: one for each image and noise draw."""
        starts = range(0, num_images, self.batch_size)
        sizes = [min(self.batch_size, num_images - start) for start in starts]
        return sum(size * self.draws_of(size) for size in sizes)

    def lr_scale(self, step: int, num_steps: int) -> float:
        """Return the factor on the rate of a step, counted from 0."""
        if self.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(step / num_steps * math.pi))

    def num_averaged(self, num_steps: int) -> int:
        """Return how many of the last steps are averaged; 0 if none is."""
        return max(1, round(self.average * num_steps)) if self.average > 0 else 0


def can_adapt_together(method: Method, model: ModelConfig) -> bool:
    """Return whether new clients can be fitted in one batch.

    They train an embedding alone, and no dropout draws from a stream that they would share.
    """
    return method.adapt_parts == (CLIENT_EMB,) and model.dropout == 0.0
