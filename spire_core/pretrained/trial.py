"""A trial of a model without its numbers: whether its settings fit each other, and the images."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call

from spire_core.errors import ConfigError, first_line
from spire_core.pretrained.quiet import unwarned


def check_takes(model: nn.Module, shape: tuple[int, ...], part: Path, *more: Tensor | None) -> None:
    """Raise ConfigError unless a model makes images of the shape (C, H, W) out of such images.

    Tensors on the device meta have shapes alone, so nothing is computed. `more`: what else the
    model takes, `part`: its own folder, for the message.
    """
    named = (*model.named_parameters(), *model.named_buffers())
    numbers = {name: tensor.to("meta") for name, tensor in named}
    others = [None if tensor is None else tensor.to("meta") for tensor in more]
    try:
        with torch.no_grad(), unwarned():
            images = torch.zeros(1, *shape, device="meta")
            output = functional_call(model, numbers, (images, *others))
    except Exception as error:  # diffusers reads settings unchecked, and fails in many ways
        raise _misfit(shape, part, first_line(error)[:200]) from error
    output = getattr(output, "sample", output)  # of diffusers' own models
    if output.shape != images.shape:
        raise _misfit(shape, part, f"others, {' x '.join(map(str, output.shape[1:]))}")


def _misfit(shape: tuple[int, ...], part: Path, got: str) -> ConfigError:
    return ConfigError(
        f"expected a model in {part} that takes and returns images of {' x '.join(map(str, shape))}"
        f", got {got}: choose another model.backbone or another data.image_size"
    )
