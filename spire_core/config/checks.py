"""Checks of settings: the range or the choices declared with a setting's type, and `require`.

A group of settings declares `lr: Annotated[float, Range(0, 1000)] = 2e-3`. Its `__post_init__`
calls `check_fields`, then `require` for each rule about several settings.
"""

import dataclasses
import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from spire_core.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """The numbers that a setting, or each entry of a list, may take; None and texts pass.

    `at_most` is far above any real experiment, and low enough to refuse a number with three zeros
    too many before memory is allocated.
    """

    at_least: float = -math.inf
    at_most: float = math.inf
    above: float = field(default=-math.inf, kw_only=True)
    below: float = field(default=math.inf, kw_only=True)

    def __contains__(self, number: float) -> bool:
        return self.at_least <= number <= self.at_most and self.above < number < self.below

    def __str__(self) -> str:
        low, high = max(self.at_least, self.above), min(self.at_most, self.below)
        left, right = "[" if low == self.at_least else "(", "]" if high == self.at_most else ")"
        return f"in {left}{low:g}, {high:g}{right if high < math.inf else ')'}"

    def check(self, name: str, value: Any) -> None:
        """Raise ConfigError if a setting has a number outside, or is a list without entries."""
        entries = value if isinstance(value, tuple) else (value,)
        require(len(entries) > 0, f"entries of {name}", "none", "add one")
        for entry in entries:
            is_number = isinstance(entry, int | float) and not isinstance(entry, bool)
            require(not is_number or entry in self, f"{name} {self}", entry, "change it")


class Choice:
    """The texts that a setting may be."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def check(self, name: str, value: str) -> None:
        """Raise ConfigError if a setting is none of the texts."""
        check_choice(name, value, self.names)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ConfigError, with the nearest choice, unless a setting is one of the choices."""
    expected = f"{name} out of {', '.join(choices)}"
    require(value in choices, expected, repr(value), hint(value, choices))


def check_fields(settings: Any, group: str) -> None:
    """Raise ConfigError if a setting of a group is not as its annotation declares."""
    for one in dataclasses.fields(settings):
        for rule in getattr(one.type, "__metadata__", ()):
            rule.check(f"{group}.{one.name}".lstrip("."), getattr(settings, one.name))


def require(is_met: bool, expected: str, got: object, advice: str) -> None:
    """Raise ConfigError unless a condition is met."""
    if not is_met:
        raise ConfigError(f"expected {expected}, got {got}: {advice}")


def hint(name: str, known: Sequence[str]) -> str:
    """Return the advice for an unknown name: the known name that was probably meant."""
    near = difflib.get_close_matches(str(name).lower(), known, 1, 0.5)
    return f"did you mean {near[0]}?" if near else "choose one of them"
