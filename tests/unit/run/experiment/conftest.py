"""What tests of runs on pre-trained models share."""

from typing import Any

import pytest


@pytest.fixture(scope="session")
def unet_sizes() -> dict[str, Any]:
    """The settings that small U-Nets of diffusers have in common, for 8 x 8 numbers."""
    return {
        "sample_size": 8,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
    }
