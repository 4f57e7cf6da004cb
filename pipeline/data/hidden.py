"""Which images `partition.hidden` means: those of a class, or of a pattern of captions.

Texts that look the same are the same: classes are compared in Unicode's composed form, captions by
their words, as a network with text reads them.
"""

import fnmatch
from collections.abc import Sequence

import numpy as np

from spire_core.network.words import composed, words_of


def is_class(pattern: str, class_names: Sequence[str]) -> bool:
    """Return whether an entry of `partition.hidden` is the name of a class."""
    return composed(pattern) in map(composed, class_names)


def fitting(
    pattern: str,
    labels: np.ndarray,
    class_names: Sequence[str],
    captions: Sequence[str] | None,
) -> np.ndarray:
    """Return which images (N,) are of the class of this name, or else have a caption that fits.

    `labels` (N,) are positions in `class_names`, -1 for another class.
    """
    if is_class(pattern, class_names):
        same = [i for i, name in enumerate(class_names) if composed(name) == composed(pattern)]
        return np.isin(labels, same)
    if captions is None:
        return np.zeros(len(labels), dtype=bool)
    wanted = _plain(pattern)
    kinds = {text for text in set(captions) if fnmatch.fnmatchcase(_plain(text), wanted)}
    return np.array([caption in kinds for caption in captions], dtype=bool)


def _plain(text: str) -> str:
    return " ".join(words_of(text))
