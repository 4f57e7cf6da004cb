"""Settings of the adaptation of new clients (`adapt.*`)."""

from dataclasses import dataclass

from spire_core.config.model import ModelConfig
from spire_core.errors import ConfigError
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

    epochs: int = 30
    lr: float | None = None
    batch_size: int = 16
    num_images: int | None = None
    init: str = "zero"
    early_stopping: bool = False
    val_fraction: float = 0.2
    patience: int = 5
    eval_every: int = 1
    group_size: int = 8
    tune_epochs: int = 0

    def __post_init__(self) -> None:
        if self.num_images is not None and self.num_images < 1:
            raise ConfigError(
                f"expected adapt.num_images of at least 1, got {self.num_images}: "
                "a new client learns from its images"
            )
        if self.epochs < 1 or self.batch_size < 1 or self.eval_every < 1 or self.patience < 1:
            raise ConfigError(
                "expected adapt.epochs, adapt.batch_size, adapt.eval_every and adapt.patience of "
                f"at least 1, got {self.epochs}, {self.batch_size}, {self.eval_every} and "
                f"{self.patience}: raise them"
            )
        if self.group_size < 1:
            raise ConfigError(
                f"expected adapt.group_size of at least 1, got {self.group_size}: raise it"
            )
        if self.tune_epochs < 0:
            raise ConfigError(
                f"expected adapt.tune_epochs of at least 0, got {self.tune_epochs}: 0 turns it off"
            )
        if self.lr is not None and self.lr <= 0:
            raise ConfigError(
                f"expected adapt.lr above 0, got {self.lr}: null takes the method's rate"
            )
        if self.init not in ("zero", "mean", "random"):
            raise ConfigError(
                f"expected adapt.init as zero, mean or random, got {self.init!r}: "
                "choose one of them"
            )
        if not 0.0 < self.val_fraction < 1.0:
            raise ConfigError(
                f"expected adapt.val_fraction in (0, 1), got {self.val_fraction}: 0.2 is usual"
            )


def can_adapt_together(method: Method, model: ModelConfig) -> bool:
    """Return whether new clients can be fitted in one batch.

    They train an embedding alone, and no dropout draws from a stream that they would share.
    """
    return method.adapt_parts == (CLIENT_EMB,) and model.dropout == 0.0
