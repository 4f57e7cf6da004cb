"""A client's reference out of a test split has its class mixture, and follows from seed and id."""

import numpy as np
import pytest

from spire_core.evaluation.reference_split import MAX_REFERENCE, ReferenceSplit, reference_counts

HELD = (30, 25, 40, 0)  # images of each class in the split


def split_of(held: tuple[int, ...]) -> ReferenceSplit:
    """A split whose images say which one they are, and whose classes are mixed up."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(held)), held))
    images = np.arange(len(labels), dtype=np.int64).reshape(-1, 1, 1, 1)
    return ReferenceSplit(images, labels)


@pytest.mark.parametrize(
    ("mixture", "held", "expected"),
    [
        ((1.0, 0.0), (30, 25), (30, 0)),  # all of the one class
        ((0.5, 0.5), (30, 25), (26, 25)),  # 51 halves to 25.5 each, of which the first gets more
        ((0.65, 0.35), (4, 9), (4, 2)),  # of 7, 4.55 would become 5
        ((0.98, 0.02), (100, 0), (25, 0)),  # of 26, 0.52 would become 1
        ((0.5, 0.5), (0, 30), (0, 0)),  # one image would be of the first class
        ((1 / 3, 2 / 3), (9000, 9000), (683, 1365)),  # 682.67 and 1365.33
    ],
)
def test_counts_are_the_mixture_by_largest_remainder(
    mixture: tuple[float, ...], held: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert tuple(reference_counts(np.array(mixture), np.array(held))) == expected


def rounded(num: int, own: np.ndarray) -> np.ndarray:
    """Return `num` images by the shares of 128 own ones, in whole numbers."""
    counts, remainders = divmod(num * own, 128)
    for label in sorted(range(len(own)), key=lambda k: (-remainders[k], k))[: num - counts.sum()]:
        counts[label] += 1
    return counts


@pytest.mark.parametrize("seed", range(8))
def test_no_larger_reference_is_possible(seed: int) -> None:
    rng = np.random.default_rng(seed)
    own, held = rng.multinomial(128, rng.dirichlet([0.3] * 5)), rng.integers(0, 60, 5)
    possible = (num for num in range(MAX_REFERENCE, 0, -1) if (rounded(num, own) <= held).all())
    assert np.array_equal(reference_counts(own / 128, held), rounded(next(possible, 0), own))


def test_a_reference_has_each_image_once_and_the_mixture() -> None:
    split, mixture = split_of(HELD), np.array([0.5, 0.25, 0.25, 0.0])
    chosen = split.images_of(mixture, 3, 7).ravel()
    assert len(set(chosen.tolist())) == len(chosen)
    counts = np.bincount(split.labels[chosen], minlength=4)
    assert counts.tolist() == reference_counts(mixture, np.array(HELD)).tolist() == [30, 15, 15, 0]
    assert np.array_equal(chosen, split_of(HELD).images_of(mixture, 3, 7).ravel())
    for seed, client_id in ((4, 7), (3, 8)):
        assert not np.array_equal(chosen, split.images_of(mixture, seed, client_id).ravel())
