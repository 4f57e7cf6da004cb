"""The key behind the masks of a run's secure sums: all clients' secrets follow from it.

In a deployment every client draws its own; here the workers, which simulate all clients, read one
key from the run's folder. The server's side cannot import this file. Masks cancel in every result,
so a process that starts or resumes a run begins with a fresh key: a repeated round is masked anew.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.runs.key_file import drop_key, read_key, write_key
from pipeline.runs.layout import MASK_KEY
from spire_core.privacy.noise import new_key
from spire_core.secure_sum.keys import KEY_BYTES, ClientSecrets


@contextlib.contextmanager
def mask_key(run_dir: Path, is_needed: bool) -> Iterator[None]:
    """Give a run a fresh key for a block, in place of any other, if it masks anything."""
    if not is_needed:
        yield
        return
    write_key(run_dir / MASK_KEY, new_key())
    try:
        yield
    finally:
        drop_key(run_dir / MASK_KEY)


def client_secrets(run_dir: Path, sum_name: str, client_id: int) -> ClientSecrets:
    """Return a client's secrets in one sum; RunError if the key is gone or damaged."""
    key = read_key(run_dir / MASK_KEY, KEY_BYTES, "mask key", "resume the run")
    return ClientSecrets(key, sum_name, client_id)
