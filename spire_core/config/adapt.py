"""Settings of the adaptation of new clients (`adapt.*`)."""

from dataclasses import dataclass
from typing import Annotated

from spire_core.config.checks import Choice, Range, check_fields
from spire_core.config.model import ModelConfig
from spire_core.methods import CLIENT_EMB, Method


@dataclass(frozen=True)
class AdaptConfig:
    """How a new client trains.

    `lr` None takes the method's own rate. `num_images` limits the training images of a new client.
    `init` is where its embedding starts: "zero", the "mean" of the pre-training embeddings, or
    "random" (from the distribution they started from). With `early_stopping`, `val_fraction` of its
    images are set aside, and the epoch with the lowest denoising loss on them, 0 being the start,
    is kept once `patience` epochs brought nothing better. `eval_every`: epochs between two points
    of the forgetting curves. `group_size`: new clients that are fitted in one batch, where each
    trains an embedding alone (`adapt_together`); they are taken in the order of their ids. As float
    sums differ in their last bits from one size to another, it belongs to what determines a result.

    `tune_epochs`: passes of a pre-training client over all its own images, with which FedAvg +
    fine-tuning is scored once more at the end of pre-training; nothing of them is kept.
    """

    epochs: Annotated[int, Range(1, 1_000_000)] = 30
    lr: Annotated[
        float | None, Range(above=0, at_most=1000, advice="null takes the method's rate")
    ] = None
    batch_size: Annotated[int, Range(1, 100_000)] = 16
    num_images: Annotated[int | None, Range(1, advice="a new client learns from its images")] = None
    init: Annotated[str, Choice("zero", "mean", "random")] = "zero"
    early_stopping: bool = False
    val_fraction: Annotated[float, Range(above=0, below=1, advice="0.2 is usual")] = 0.2
    patience: Annotated[int, Range(1)] = 5
    eval_every: Annotated[int, Range(1)] = 1
    group_size: Annotated[int, Range(1)] = 8
    tune_epochs: Annotated[int, Range(0, advice="0 turns it off")] = 0

    def __post_init__(self) -> None:
        check_fields(self, "adapt")


def can_adapt_together(method: Method, model: ModelConfig) -> bool:
    """Return whether new clients can be fitted in one batch.

    They train an embedding alone, and no dropout draws from a stream that they would share.
    """
    return method.adapt_parts == (CLIENT_EMB,) and model.dropout == 0.0
