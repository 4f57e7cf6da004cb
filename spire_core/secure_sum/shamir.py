"""Shamir's secret sharing (1979): any t shares give a secret, fewer tell nothing of it.

Secrets are numbers below the prime 2^521 - 1. A share is the value, at the point of its holder, of
a random polynomial of degree t - 1 whose value at 0 is the secret.
"""

from collections.abc import Mapping, Sequence

PRIME = 2**521 - 1
SHARE_BYTES = 66


def split(
    secret: bytes, points: Sequence[int], threshold: int, randomness: bytes
) -> dict[int, bytes]:
    """Return a share of the secret for each point; `threshold` of them are needed.

    `points`: different integers above 0. `randomness`: `num_random_bytes(threshold)` secret bytes
    that are used for nothing else.
    """
    if len(randomness) != num_random_bytes(threshold) or min(points) < 1:
        raise ValueError("expected points above 0 and bytes for each coefficient")
    pieces = (randomness[at : at + SHARE_BYTES] for at in range(0, len(randomness), SHARE_BYTES))
    higher = [int.from_bytes(piece, "big") & PRIME for piece in pieces]  # uniform below 2^521
    coefficients = [*reversed(higher), int.from_bytes(secret, "big")]
    return {point: _value(coefficients, point).to_bytes(SHARE_BYTES, "big") for point in points}


def num_random_bytes(threshold: int) -> int:
    """Return the bytes of the random coefficients of one secret."""
    return (threshold - 1) * SHARE_BYTES


def join(shares: Mapping[int, bytes], size: int) -> bytes:
    """Return the secret of so many bytes from its shares by point, by Lagrange's formula at 0.

    ValueError if these are shares of no such secret, as happens with too few of them.
    """
    total = 0
    for point, share in shares.items():
        above, below = 1, 1
        for other in shares.keys() - {point}:
            above, below = above * other % PRIME, below * (other - point) % PRIME
        total += int.from_bytes(share, "big") * above * pow(below, -1, PRIME)
    secret = total % PRIME
    if secret >= 1 << (8 * size):
        raise ValueError("shares that belong to no secret")
    return secret.to_bytes(size, "big")


def _value(coefficients: Sequence[int], point: int) -> int:
    """Return a polynomial's value modulo the prime; coefficients from the highest on (Horner)."""
    value = 0
    for coefficient in coefficients:
        value = (value * point + coefficient) % PRIME
    return value
