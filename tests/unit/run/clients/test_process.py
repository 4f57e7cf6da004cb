"""Freed memory stays with a process that computes."""

import platform
import resource

import pytest
import torch

from pipeline.clients.memory import keep_freed_memory


def pages_taken() -> int:
    """Pages that the system hands out while tensors of 64 MiB are made and freed again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(2**22) for _ in range(4)]
    del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_what_a_step_frees_serves_the_next() -> None:
    keep_freed_memory()
    taken = [pages_taken() for _ in range(4)]  # the first time they have to come from the system
    assert min(taken) < 2**26 // resource.getpagesize() // 10
