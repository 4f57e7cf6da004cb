"""A test split is no reference where clients' images differ from it by more than classes."""

import pytest

from pipeline.config.load import load_config
from spire_core.errors import ConfigError


@pytest.mark.parametrize(
    ("preset", "words", "sentence"),
    [
        (
            "smoke",
            ["partition.style=tint"],
            "expected partition.style=none with eval.reference=test_split, got tint: images of a "
            "test split have no client's style, so set eval.reference=heldout",
        ),
        (
            "fonts-cpu",
            [],
            "expected model.text=none with eval.reference=test_split, got words: images drawn for "
            "captions are scored against those of the captions, so set eval.reference=heldout",
        ),
        (
            "smoke",
            ["data.name=fonts"],
            "expected data whose test split has images of the same kind with "
            "eval.reference=test_split, got fonts: the fonts of its test split are others than the "
            "clients', so set eval.reference=heldout",
        ),
        (
            "folder-cpu",
            ["data.path=photos", "partition=natural", "partition.hidden=[cats]"],
            "expected a partition that deals images out with eval.reference=test_split, got "
            "natural: images of clients that exist are theirs alone, so set eval.reference=heldout",
        ),
    ],
)
def test_other_differences_than_classes_are_refused(
    preset: str, words: list[str], sentence: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(preset, [*words, "eval.reference=test_split"])
    assert str(error.value) == sentence
    load_config(preset, [*words, "eval.reference=heldout"])


def test_another_word_is_no_reference() -> None:
    with pytest.raises(ConfigError, match=r"eval\.reference as heldout or test_split, got 'test'"):
        load_config("smoke", ["eval.reference=test"])
