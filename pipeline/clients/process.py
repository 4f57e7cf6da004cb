"""What a process that computes tells the C library about freed memory."""

import ctypes
import platform

import torch

from spire_core.config.client import ClientConfig

KEPT_BYTES = 2**28  # 256 MiB
LARGEST_BYTES = 2**25  # 32 MiB, the most that every glibc takes
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let this process keep what it frees for its next step, instead of giving it back at once.

    A step frees as much as it takes. By default glibc returns that to the system, which hands it
    out again page by page, each page cleared: a sixth of a small network's training time
    (docs/performance.md). Elsewhere than with glibc nothing is changed.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(_MMAP_THRESHOLD, LARGEST_BYTES)


def prepare_torch(client: ClientConfig, device: torch.device) -> None:
    """Set what a process has once for all: one thread, and the precision of its GPU's products."""
    torch.set_num_threads(1)
    rounds_factors = client.precision == "tf32" and device.type == "cuda"
    torch.set_float32_matmul_precision("high" if rounds_factors else "highest")
