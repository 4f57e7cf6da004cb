"""Private noise: a function of a secret key and counters, never of the run's seed.

Everybody could subtract noise that follows from the public seed. SHAKE-256 over the key, the
purpose and the counters is a pseudorandom function (Bertoni et al. 2011, section 4), so that
streams are independent for whoever lacks the key. Counters in place of a state make the noise of a
step the same in any process and after any resume. Uniforms of 53 bits become normals by Box and
Muller (1958) in float64; docs/privacy.md has what this leaves out.
"""

import hashlib
import secrets
from typing import NoReturn

import numpy as np

KEY_BYTES = 32
GRID = 2**24  # steps in one clip norm of the grid of noisy sums, as fine as float32
LONGEST = GRID * (1 - 1e-12)  # of a clipped vector: at most GRID after the rounding of float64 too
_VERSION = b"spire private noise 1"


def new_key() -> bytes:
    """Return a fresh key from the system's secret source."""
    return secrets.token_bytes(KEY_BYTES)


def key_of(text: str) -> bytes:
    """Return the key that a given text stands for."""
    return hashlib.sha256(b"spire given key:" + text.encode()).digest()


class SecretNoise:
    """Noise and sampling under one key. It can be neither sent to a process nor printed.

    `is_simulated`: the key was given, so that somebody may know it.
    """

    def __init__(self, key: bytes, is_simulated: bool = False) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"expected a key of {KEY_BYTES} bytes, got {len(key)}: use new_key()")
        self._key, self.is_simulated = key, is_simulated

    def __repr__(self) -> str:
        return "SecretNoise(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("expected a noise key to stay in its process, got an attempt to send it")

    def normals(self, size: int, purpose: str, *counters: int) -> np.ndarray:
        """Return independent standard normals (size,) float64."""
        half = (size + 1) // 2
        radius, angle = self._uniforms(2 * half, purpose, *counters).reshape(2, half)
        radius, angle = np.sqrt(-2.0 * np.log(radius)), 2.0 * np.pi * angle
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:size]

    def chosen(self, size: int, rate: float, purpose: str, *counters: int) -> np.ndarray:
        """Return which of so many images take part (size,) bool, each by itself with a chance."""
        return self._uniforms(size, purpose, *counters) < rate

    def _uniforms(self, size: int, purpose: str, *counters: int) -> np.ndarray:
        """Return uniforms (size,) in (0, 1), of 53 bits each."""
        context = "/".join([purpose, *(str(int(counter)) for counter in counters)])
        stream = hashlib.shake_256(_VERSION + self._key + context.encode()).digest(8 * size)
        return ((np.frombuffer(stream, "<u8") >> 11) + 0.5) * 2.0**-53


def noise_steps(deviations: float | np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Return noise of these standard deviations, in clip norms, as whole steps of the grid (int64).

    `normals`: independent standard normals.
    """
    return np.rint(GRID * deviations * normals).astype(np.int64)
