"""The tensors of a finished run's files, and what a client's file says of its guidance."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from pipeline.files.damage import reading
from pipeline.runs.model_files import GUIDANCE
from spire_core.config.eval import MAX_GUIDANCE
from spire_core.errors import RunError


def load_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return the tensors of a file; RunError unless it holds exactly these names and shapes."""
    with reading("a finished run's tensors", path, "wait for the run to end or name another"):
        tensors = load_file(path)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wrong = sorted(n for n in found.keys() | shapes.keys() if found.get(n) != shapes.get(n))
    if wrong:
        name = wrong[0]
        raise RunError(
            f"expected {shapes.get(name, 'nothing')} as the shape of {name} in {path}, got "
            f"{found.get(name, 'nothing')}: copy this run's files again or name another run"
        )
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not tensor.isfinite().all():
            raise RunError(
                f"expected finite float32 numbers as {name} in {path}, got others: copy this run's "
                "files again or name another run"
            )
    return tensors


def stored_guidance(path: Path) -> float | None:
    """Return the guidance that the header of a client's file names, if any."""
    with reading("a finished run's client", path, "copy this run's files again"):
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(GUIDANCE)
        scale = None if text is None else float(text)
        if scale is not None and not 0 <= scale <= MAX_GUIDANCE:
            raise ValueError(f"{scale} as its guidance")
    return scale
