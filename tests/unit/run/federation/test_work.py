"""What becomes of an error in one unit of work."""

from typing import Any

import pytest
import torch

from pipeline.federation.machine_faults import LESS_MEMORY
from pipeline.federation.work import ClientFailure, Work, run_here

NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee more"),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("CUDA error: out of memory\nSee more"),
    MemoryError(),
]
LOST_GPU = [
    torch.AcceleratorError("CUDA error: device-side assert triggered\nSee more"),
    torch.AcceleratorError("HIP error: an illegal memory access was encountered"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
]


class Raising:
    """Stands in for a worker; client 1 meets an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def losses(self, client_id: int) -> int:
        if client_id == 1:
            raise self.error
        return client_id


def results_with(error: Exception) -> list[Any]:
    worker: Any = Raising(error)
    return run_here(worker, Work("losses", [0, 1, 2], (), [()] * 3, [1.0] * 3))


@pytest.mark.parametrize("error", NO_MEMORY)
def test_a_want_of_memory_names_the_settings(error: Exception) -> None:
    first, failure, last = results_with(error)
    assert (first, last) == (0, 2)
    assert isinstance(failure, ClientFailure)
    sentence = str(failure.error("losses", " in round 2"))
    assert "for client 1 in round 2, got too little memory (" in sentence
    assert f"): {LESS_MEMORY}; spire resume goes on" in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("error", LOST_GPU)
def test_a_process_that_has_lost_its_gpu_computes_nothing_more(error: Exception) -> None:
    with pytest.raises(type(error)) as raised:
        results_with(error)
    assert raised.value is error


def test_any_other_error_is_the_clients_own() -> None:
    first, failure, last = results_with(RuntimeError("mat1 and mat2 cannot be multiplied"))
    assert (first, last) == (0, 2)
    assert isinstance(failure, ClientFailure)
    assert failure.cause.startswith("RuntimeError('mat1 and mat2 cannot be multiplied') at test_wo")
