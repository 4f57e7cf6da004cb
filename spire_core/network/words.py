"""Captions as integers: positions of their words in the vocabulary that a model is published with.

The vocabulary is a setting (`model.words`), which is published. A run does not make it out of
captions, and no caption leaves its client; a list from `words_in` does tell the captions' words.

N captions of at most L words; 0 stands for no word. Words that look the same are the same: captions
and vocabulary are compared in Unicode's composed form (NFC).
"""

import unicodedata
from collections.abc import Collection, Sequence

import numpy as np

from spire_core.config.checks import hint
from spire_core.errors import DataError

MAX_WORDS = 64  # of a caption


def are_captions(values: object) -> bool:
    """Return whether values are a list of texts: not one text, whose letters would be captions."""
    if isinstance(values, str | bytes) or not isinstance(values, Collection):
        return False
    return all(isinstance(value, str) for value in values)


def composed(text: str) -> str:
    """Return a text in Unicode's composed form, NFC."""
    return unicodedata.normalize("NFC", text)


def words_of(caption: str) -> list[str]:
    """Return the words of a caption, in small letters, composed."""
    return composed(caption.lower()).split()


def words_in(captions: Sequence[str]) -> list[str]:
    """Return the different words of captions, in order: not to be published if they are private."""
    return sorted({word for caption in set(captions) for word in words_of(caption)})


def caption_tokens(captions: Sequence[str], vocabulary: Sequence[str]) -> np.ndarray:
    """Return captions as tokens (N, L) int64, from 1 on, where L is the longest one's length.

    DataError for an empty or too long caption, and for a word that the vocabulary lacks.
    """
    numbers = {composed(word): at for at, word in enumerate(vocabulary, 1)}
    kinds = {caption: _numbered(caption, numbers) for caption in dict.fromkeys(captions)}
    longest = max((len(tokens) for tokens in kinds.values()), default=1)
    rows = {caption: tokens + [0] * (longest - len(tokens)) for caption, tokens in kinds.items()}
    return np.array([rows[caption] for caption in captions], np.int64).reshape(-1, longest)


def _numbered(caption: str, numbers: dict[str, int]) -> list[int]:
    words = words_of(caption)
    if not 1 <= len(words) <= MAX_WORDS:
        raise DataError(
            f"expected a caption of 1 to {MAX_WORDS} words, got {len(words)} in {caption!r:.80}: "
            "write another"
        )
    for word in words:
        if word not in numbers:
            known = ", ".join(list(numbers)[:60]) + (", ..." if len(numbers) > 60 else "")
            near = hint(word, list(numbers))
            raise DataError(f"expected words of {known}, got {word!r:.40}: {near}")
    return [numbers[word] for word in words]
