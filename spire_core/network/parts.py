"""Which part of the network a parameter belongs to, as the network's modules declare it."""

from collections.abc import Iterator
from typing import TypeVar

from torch import nn

from spire_core.methods import BODY

Module = TypeVar("Module", bound=nn.Module)


def declare(part: str, module: Module) -> Module:
    """Declare that a module's parameters are a part (`spire_core.methods`); return the module."""
    module.part = part  # type: ignore[assignment]
    return module


def declaring(net: nn.Module, part: str) -> Iterator[nn.Module]:
    """Yield the modules that declare a part, in the order of the network's modules."""
    return (module for module in net.modules() if getattr(module, "part", None) == part)


def declared_parts(net: nn.Module) -> dict[str, str]:
    """Return the part of each parameter by its name: the innermost that is declared, or `body`."""
    parts = {name: BODY for name, _ in net.named_parameters()}
    for outer, module in net.named_modules():  # outer modules come first
        if hasattr(module, "part"):
            for name, _ in module.named_parameters(outer):
                parts[name] = module.part  # type: ignore[assignment]
    return parts
