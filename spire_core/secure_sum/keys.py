"""Keys of one sum: agreement, sealed messages and streams, by the package `cryptography`.

A client's secrets of a sum follow from a master key, the sum's name and the client, by SHAKE-256 as
in `spire_core.privacy.noise`. A repeated step therefore has the same keys, in whatever process. In
a deployment each client draws them by itself; here one master key stands for the random sources of
all clients.

The package is imported where it is used, since it takes a tenth of a second.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

KEY_BYTES = 32
BLOCK = 1 << 15  # numbers of a stream at once
_VERSION = b"spire secure sum 1"


@dataclass(frozen=True)
class PublicKeys:
    """A client's X25519 keys in one sum: for sealed shares and for masks."""

    sealing: bytes
    masking: bytes


class ClientSecrets:
    """A client's secrets in one sum. They can be neither sent to a process nor printed.

    `sealing` and `masking`: X25519 private keys, c^SK and s^SK of Bonawitz et al. 2017, figure 4.
    `seed`: of the client's own mask, their b.
    """

    def __init__(self, master: bytes, sum_name: str, client_id: int) -> None:
        if len(master) != KEY_BYTES:
            raise ValueError(f"expected a key of {KEY_BYTES} bytes, got {len(master)}")
        self._master, self._context = master, f"{sum_name}/{client_id}".encode()
        self.client_id, self.sum_name = client_id, sum_name
        self.sealing = self.derived("sealing key", KEY_BYTES)
        self.masking = self.derived("masking key", KEY_BYTES)
        self.seed = self.derived("own mask", KEY_BYTES)

    def __repr__(self) -> str:
        return f"ClientSecrets(client {self.client_id}, ***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("expected secrets to stay in their process, got an attempt to send them")

    def derived(self, purpose: str, size: int) -> bytes:
        """Return so many secret bytes for a purpose."""
        text = _VERSION + self._master + self._context + b"/" + purpose.encode()
        return hashlib.shake_256(text).digest(size)

    @property
    def public(self) -> PublicKeys:
        """The keys that the client advertises."""
        return PublicKeys(public_key(self.sealing), public_key(self.masking))


def public_key(private: bytes) -> bytes:
    """Return the X25519 public key of a private one."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agreed_key(private: bytes, public: bytes, purpose: str) -> bytes:
    """Return the key that two clients share for a purpose: X25519, then HKDF-SHA256."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import (
        X25519PrivateKey,
        X25519PublicKey,
    )
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    other = X25519PublicKey.from_public_bytes(public)
    shared = X25519PrivateKey.from_private_bytes(private).exchange(other)
    return HKDF(SHA256(), KEY_BYTES, None, _VERSION + purpose.encode()).derive(shared)


def seal(key: bytes, content: bytes) -> bytes:
    """Return content encrypted and authenticated by a key that seals nothing else."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(key).encrypt(bytes(12), content, None)


def unseal(key: bytes, sealed: bytes) -> bytes:
    """Return the content of `seal`; ValueError if it was changed or sealed by another key."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), sealed, None)
    except InvalidTag as error:
        raise ValueError("a sealed share that was changed on its way") from error


def stream(seed: bytes, size: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield a seed's pseudorandom integers modulo 2^64, (size,) uint64 in pieces, with their place.

    AES-256 in counter mode under the seed, on zeros.
    """
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    encryptor = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor()
    for start in range(0, size, BLOCK):
        stop = min(size, start + BLOCK)
        yield slice(start, stop), np.frombuffer(encryptor.update(bytes(8 * (stop - start))), "<u8")
