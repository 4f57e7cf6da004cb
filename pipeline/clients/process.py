"""Settings of a process that computes: the C library's memory, torch's threads and precision."""

import ctypes
import platform

import torch

from spire_core.config.client import ClientConfig

KEPT_BYTES = 2**28  # 256 MiB
LARGEST_BYTES = 2**25  # 32 MiB, the most that every glibc takes
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next step, instead of returning it at once.

    Each step frees all memory that it allocates. By default glibc returns that to the system, which
    clears every page before it hands it out again: a sixth of a small network's training time
    (docs/performance.md). Without glibc this function does nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        libc.mallopt(_MMAP_THRESHOLD, LARGEST_BYTES)


def prepare_torch(client: ClientConfig, device: torch.device) -> None:
    """Set torch to one thread, and to the precision of matrix products on a GPU."""
    torch.set_num_threads(1)
    allows_tf32 = client.precision == "tf32" and device.type == "cuda"
    torch.set_float32_matmul_precision("high" if allows_tf32 else "highest")
