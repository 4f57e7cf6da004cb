"""A client's images as the latents of a pre-trained model, encoded once.

The client's side encodes them when they are first needed, and keeps the latents in a cache of its
own, which later rounds read. The server sees none.
"""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from spire_core.diffusion.process import Diffusion
from spire_core.evaluation.feature_cache import cached
from spire_core.training.fit import to_float


def encoder_of(diffusion: Diffusion, cache: Path) -> Callable[[Tensor], Tensor] | None:
    """Return the function from uint8 images (n, C, H, W) to latents (n, c, h, w) on the CPU.

    None for a process of pixels. `cache` is a folder for the latents.
    """
    codec = diffusion.codec
    if codec is None:
        return None
    return lambda images: cached(codec.encode, codec.name, to_float(images), cache)
