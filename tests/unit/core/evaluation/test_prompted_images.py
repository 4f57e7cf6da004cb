"""Images drawn for prompts against real ones: distances, ranks and controls worked out by hand."""

import numpy as np
import pytest
import torch

from spire_core.evaluation.prompted_images import (
    Gallery,
    mean_images,
    nearest_images,
    owner_distances,
    paired_pixel_distances,
    pixel_distances,
    retrieval_rank,
)


def flat(*levels: float) -> torch.Tensor:
    """Return images of 2 x 2 pixels of one level in [0, 1] each."""
    return torch.tensor(levels).reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2) * 2 - 1


def gallery() -> Gallery:
    """Return three owners' images of kinds 0, 1 and 2; owner 2 has two of kind 0 and none of 1."""
    levels = [0.0, 1.0, 0.0, 0.2, 0.8, 1.0, 0.4, 0.6, 0.2]
    kinds = np.array([0, 1, 2, 0, 1, 2, 0, 0, 2])
    owner = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    images = np.array([round(level * 255) for level in levels], np.uint8)
    return Gallery(images.reshape(-1, 1, 1, 1).repeat(2, 2).repeat(2, 3), kinds, owner)


def test_distances_are_means_over_pixels_then_images_of_a_kind_then_prompts() -> None:
    drawn, kinds = flat(0.2, 0.8), np.array([0, 1])
    found = owner_distances(drawn, kinds, gallery())
    # Owner 2 is asked for kind 0 alone: (|0.2 - 0.4| + |0.2 - 0.6|) / 2.
    np.testing.assert_allclose(found, [0.2, 0.0, 0.3], atol=1e-6)


def test_ranks_count_owners_that_are_as_near_on_the_prompts_in_common() -> None:
    drawn, kinds = flat(0.2, 0.8), np.array([0, 1])
    # Owner 2, with 0.3 on kind 0, is behind owner 0's 0.2 on that kind.
    assert [retrieval_rank(owner, drawn, kinds, gallery()) for owner in range(3)] == [2, 1, 3]
    assert retrieval_rank(0, flat(0.5), np.array([1]), gallery()) == 2  # owner 2 has no such image


def test_images_of_no_owner_count_nowhere() -> None:
    some = gallery().only(np.array([3, 4, 5]))
    found = owner_distances(flat(0.0), np.array([0]), some)
    np.testing.assert_allclose(found, [np.inf, 0.2], atol=1e-6)
    assert mean_images(np.array([0, 1]), some) is not None
    lacking = gallery().only(np.array([6, 7]))
    assert mean_images(np.array([0, 1]), lacking) is None
    assert nearest_images(np.array([1]), lacking, np.zeros(3)) is None
    others = gallery().without(np.array([0, 1, 2]))
    assert owner_distances(flat(0.0), np.array([0]), others)[0] == np.inf


def test_a_pair_is_as_far_as_among_all_to_the_last_bit() -> None:
    stream = torch.Generator().manual_seed(0)
    images, others = torch.randn(2, 9, 3, 7, 7, generator=stream)
    found = paired_pixel_distances(images, others)
    assert torch.equal(found, pixel_distances(images, others).diagonal())


def test_the_mean_of_a_kind_is_over_its_images() -> None:
    found = mean_images(np.array([2, 0]), gallery())
    assert found is not None
    levels = (found[:, 0, 0, 0] + 1) / 2
    assert levels.tolist() == pytest.approx([(0 + 1 + 0.2) / 3, (0 + 0.2 + 0.4 + 0.6) / 4])


def test_the_nearest_owner_leaves_a_kind_that_it_lacks_to_the_next() -> None:
    found = nearest_images(np.array([0, 1]), gallery(), np.array([0.3, 0.2, 0.1]))
    assert found is not None
    levels = (found[:, 0, 0, 0] + 1) / 2
    assert levels.tolist() == pytest.approx([0.4, 0.8])
