"""Styles of clients: each its own, the same for the same seed, and what they do to an image."""

import numpy as np
import pytest

from spire_core.config.partition import STYLES as NAMES
from spire_core.config.partition import PartitionConfig
from spire_core.errors import ConfigError
from spire_core.partition.split import ClientSplit, Partition
from spire_core.partition.styles import STYLES, amount_of, styled

CROSS = np.zeros((9, 9), np.uint8)
CROSS[4, 1:8] = 255  # a bar from left to right
CLIENTS = [ClientSplit(i, np.array([2 * i]), np.array([2 * i + 1])) for i in range(4)]
PARTITION = Partition(tuple(CLIENTS[:3]), (CLIENTS[3],))
IMAGES = np.repeat(CROSS[None, None], 9, axis=0)  # the last is nobody's


@pytest.mark.parametrize("style", STYLES)
def test_a_client_has_one_style_and_others_have_others(style: str) -> None:
    drawn = styled(IMAGES, PARTITION, style, seed=0)
    np.testing.assert_array_equal(drawn, styled(IMAGES, PARTITION, style, seed=0))
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert len({drawn[2 * i].tobytes() for i in range(4)}) == 4
    assert not drawn[8].any()
    assert (drawn[:8] != styled(IMAGES, PARTITION, style, seed=1)[:8]).any()
    assert drawn.dtype == np.uint8


def test_no_style_is_the_images_themselves() -> None:
    assert styled(IMAGES, PARTITION, "none", 0) is IMAGES
    assert ("none", *STYLES) == NAMES


def test_strokes_grow_and_shrink_by_a_pixel() -> None:
    amounts = np.array([amount_of(i, 0) for i in range(4)])
    assert (amounts > 0).any()
    assert (amounts < 0).any()
    drawn = styled(IMAGES, PARTITION, "stroke", 0)
    for client_id, amount in enumerate(amounts):
        own = drawn[2 * client_id, 0]
        assert own[4, 4] == np.rint(255 * min(1, 1 + amount))
        assert own[3, 4] == np.rint(255 * max(0, amount))


def test_a_tint_is_one_full_hue() -> None:
    drawn = styled(IMAGES, PARTITION, "tint", 0)
    assert drawn.shape == (9, 3, 9, 9)
    assert (drawn[:8, :, 4, 4].max(1) == 255).all()
    assert (drawn[:8, :, 4, 4].min(1) == 0).all()
    assert not drawn[:, :, 0, 0].any()
    with pytest.raises(ConfigError, match="expected grey images"):
        styled(drawn, PARTITION, "tint", 0)


def test_clients_that_share_images_have_no_style() -> None:
    with pytest.raises(ConfigError, match=r"no partition\.style with partition=independent"):
        PartitionConfig("independent", client_size=64, style="rotation")
