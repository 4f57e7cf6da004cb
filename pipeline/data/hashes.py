"""SHA-256 of arrays, and of hashes and texts together."""

import hashlib

import numpy as np


def sha256_of(*arrays: np.ndarray) -> str:
    """Return the SHA-256 of the arrays' bytes in C order, one after the other."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def combined(*digests: str) -> str:
    """Return the SHA-256 of hashes, or of other texts, one after the other."""
    return hashlib.sha256("".join(digests).encode()).hexdigest()
