"""Errors of a worker that are its machine's and not a client's: no memory, or a lost GPU.

This module does not import torch: where such an error is, torch has been imported.
"""

import sys

LESS_MEMORY = (
    "lower resources.num_actors or, in a new run, federation.cohort_size, client.group_size, "
    "client.batch_size or model.width"
)


def lacks_memory(error: BaseException | None) -> bool:
    """Return whether an error says that the memory of a machine or of a GPU is full."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error) if isinstance(error, RuntimeError) else ""
    is_torchs = "DefaultCPUAllocator" in text or text.startswith("CUDA error: out of memory")
    return isinstance(error, MemoryError) or is_torchs


def has_lost_gpu(error: BaseException | None) -> bool:
    """Return whether an error says that its process has lost the GPU; a new process may use it.

    After a failed assertion on the GPU, an illegal access or a fault of its memory, every later
    call of CUDA fails in that process.
    """
    torch = sys.modules.get("torch")
    is_of_gpu = torch is not None and isinstance(error, torch.AcceleratorError)
    is_named = isinstance(error, RuntimeError) and str(error).startswith("CUDA error")
    return (is_of_gpu or is_named) and not lacks_memory(error)
