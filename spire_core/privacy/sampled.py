"""The privacy loss of steps that sample images by Poisson: Google's `dp-accounting`.

The package is an extra. It is imported where it is used, since only clients that sample need it.
"""

from typing import Any

from spire_core.errors import ConfigError

SHRINK = 0.7  # factor between two steps of a search
MISSING = (
    "expected the package dp-accounting, which computes the privacy of sampled steps, got none: "
    'install it with pip install "spire-diffusion[privacy]", or sample nothing: all images in each '
    "step with a larger privacy.adapt.batch_size, or all clients in each round"
)


def sampled_epsilon(
    noise_multiplier: float, num_steps: int, sampling_rate: float, delta: float
) -> float:
    """Return the epsilon of steps that take each image with a chance and add Gaussian noise.

    Neighbours differ by one image that is added or removed. Raises ConfigError without the package.
    """
    event = _event(noise_multiplier, num_steps, sampling_rate)
    return float(_accountant().compose(event).get_epsilon(delta))


def sampled_noise(
    epsilon: float, delta: float, num_steps: int, sampling_rate: float, enough: float
) -> float:
    """Return the smallest noise multiplier with which such steps spend at most epsilon.

    `enough`: one that is too large. The search begins there, because the loss distributions of
    little noise take long. Raises ConfigError without the package.
    """
    while sampled_epsilon(SHRINK * enough, num_steps, sampling_rate, delta) <= epsilon:
        enough *= SHRINK
    accounting = _package()
    return accounting.calibrate_dp_mechanism(
        _accountant,
        lambda noise: _event(noise, num_steps, sampling_rate),
        epsilon,
        delta,
        accounting.ExplicitBracketInterval(SHRINK * enough, enough),
        tol=1e-3 * enough,
    )


def _package() -> Any:
    try:
        import dp_accounting
    except ImportError as error:
        raise ConfigError(MISSING) from error
    return dp_accounting


def _accountant() -> Any:
    _package()
    from dp_accounting.pld import PLDAccountant

    return PLDAccountant()  # of neighbours by adding or removing one


def _event(noise_multiplier: float, num_steps: int, sampling_rate: float) -> Any:
    accounting = _package()
    gaussian = accounting.GaussianDpEvent(noise_multiplier)
    step = accounting.PoissonSampledDpEvent(sampling_rate, gaussian)
    return accounting.SelfComposedDpEvent(step, num_steps)
