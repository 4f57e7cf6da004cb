"""The privacy loss of steps that sample images by Poisson: Google's `dp-accounting`.

The package is an extra. It is imported where it is used, since only clients that sample need it.
"""

import functools
from typing import Any

from spire_core.errors import ConfigError

MISSING = (
    "expected the package dp-accounting, which computes the privacy of sampled steps, got none: "
    'install it with pip install "spire-diffusion[privacy]", or take all images in each step with '
    "a larger privacy.adapt.batch_size"
)


def sampled_epsilon(
    noise_multiplier: float, num_steps: int, sampling_rate: float, delta: float
) -> float:
    """Return the epsilon of steps that take each image with a chance and add Gaussian noise.

    Neighbours differ by one image that is added or removed. Raises ConfigError without the package.
    """
    return float(_accountant(noise_multiplier, num_steps, sampling_rate).get_epsilon(delta))


@functools.lru_cache(maxsize=64)
def _accountant(noise_multiplier: float, num_steps: int, sampling_rate: float) -> Any:
    try:
        import dp_accounting
        from dp_accounting import pld
    except ImportError as error:
        raise ConfigError(MISSING) from error
    step = dp_accounting.PoissonSampledDpEvent(
        sampling_rate, dp_accounting.GaussianDpEvent(noise_multiplier)
    )
    event = dp_accounting.SelfComposedDpEvent(step, num_steps)
    return pld.PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE).compose(event)
