"""The rules between settings of evaluations and other groups of settings."""

from pipeline.config.data import DataConfig
from spire_core.config.checks import require
from spire_core.config.eval import HELDOUT, TEST_SPLIT, EvalConfig
from spire_core.config.model import ModelConfig
from spire_core.config.partition import NATURAL, PartitionConfig

USE_HELDOUT = f"set eval.reference={HELDOUT}"


def check_evaluation(
    evaluation: EvalConfig, data: DataConfig, partition: PartitionConfig, model: ModelConfig
) -> None:
    """Raise ConfigError for scores that mean nothing with these data, clients and captions."""
    if evaluation.reference == TEST_SPLIT:
        _check_test_split(data, partition, model)


def _check_test_split(data: DataConfig, partition: PartitionConfig, model: ModelConfig) -> None:
    """Raise ConfigError where clients' images differ from a test split's by more than classes."""
    named = f"with eval.reference={TEST_SPLIT}"
    require(
        model.text == "none",
        f"model.text=none {named}",
        model.text,
        f"images drawn for captions are scored against those of the captions, so {USE_HELDOUT}",
    )
    require(
        data.name != "fonts",
        f"data whose test split has images of the same kind {named}",
        data.name,
        f"the fonts of its test split are others than the clients', so {USE_HELDOUT}",
    )
    require(
        partition.name != NATURAL,
        f"a partition that deals images out {named}",
        partition.name,
        f"images of clients that exist are theirs alone, so {USE_HELDOUT}",
    )
    require(
        partition.style == "none",
        f"partition.style=none {named}",
        partition.style,
        f"images of a test split have no client's style, so {USE_HELDOUT}",
    )
