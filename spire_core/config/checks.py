"""Checks of settings: the range or the choices declared with a setting's type, and `require`.

A group of settings declares `lr: Annotated[float, Range(0, 1000)] = 2e-3`. Its `__post_init__`
calls `check_fields`, then `require` for each rule about several settings.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from spire_core.errors import ConfigError

NEAR = 0.5  # from which on one name may be meant by another


@dataclass(frozen=True)
class Range:
    """The numbers that a setting, or each entry of a list, may take; None and texts pass.

    `at_most` is far above any real experiment, and low enough to refuse a number with three zeros
    too many before memory is allocated. `advice` ends the message about a number outside.
    """

    at_least: float = -math.inf
    at_most: float = math.inf
    advice: str = dataclasses.field(default="", kw_only=True)
    above: float = dataclasses.field(default=-math.inf, kw_only=True)
    below: float = dataclasses.field(default=math.inf, kw_only=True)

    def __contains__(self, number: float) -> bool:
        return self.at_least <= number <= self.at_most and self.above < number < self.below

    def check(self, name: str, value: Any) -> None:
        """Raise ConfigError if a setting has a number outside, or is a list without entries."""
        require(value != (), f"entries of {name}", "none", "add one")
        for entry in value if isinstance(value, tuple) else (value,):
            if isinstance(entry, int | float) and entry not in self:
                advice = self.advice or ("raise it" if entry < self.at_least else "change it")
                raise ConfigError(f"expected {name} {self._expected(entry)}, got {entry}: {advice}")

    def _expected(self, number: float) -> str:
        low, high = max(self.at_least, self.above), min(self.at_most, self.below)
        if high == math.inf:
            return f"of at least {low:g}" if low == self.at_least else f"above {low:g}"
        if (low, high) == (self.at_least, self.at_most):
            return f"of at least {low:g}" if number < low else f"in {low:g}..{high:g}"
        left, right = "[" if low == self.at_least else "(", "]" if high == self.at_most else ")"
        return f"in {left}{low:g}, {high:g}{right}"


class Choice:
    """The texts that a setting may be; `advice` ends the message about another one."""

    def __init__(self, *names: str, advice: str = "") -> None:
        self.names, self.advice = names, advice

    def check(self, name: str, value: Any) -> None:
        """Raise ConfigError if a setting is none of the texts."""
        check_choice(name, value, self.names, self.advice)


def check_choice(name: str, value: str, choices: Sequence[str], advice: str = "") -> None:
    """Raise ConfigError, with the advice or the nearest choice, unless a setting is a choice."""
    if value not in choices:
        expected = f"{name} as {', '.join(choices[:-1])} or {choices[-1]}"
        advice = advice or hint(str(value), choices)
        raise ConfigError(f"expected {expected}, got {value!r}: {advice}")


def check_fields(settings: Any, group: str) -> None:
    """Raise ConfigError if a setting of a group is not as its annotation declares."""
    prefix = f"{group}." if group else ""
    for field in dataclasses.fields(settings):
        for rule in getattr(field.type, "__metadata__", ()):
            rule.check(prefix + field.name, getattr(settings, field.name))


def require(is_met: bool, expected: str, got: object, advice: str) -> None:
    """Raise ConfigError unless a condition is met."""
    if not is_met:
        raise ConfigError(f"expected {expected}, got {got}: {advice}")


def hint(name: str, known: Sequence[str]) -> str:
    """Return the advice for an unknown name: the known name that was probably meant."""
    if not known:
        return "choose one of them"
    near, nearest = max((nearness(name, one), one) for one in known)
    return f"did you mean {nearest}?" if near >= NEAR else "choose one of them"


def nearness(name: str, one: str) -> float:
    """Return how alike two names are, 0 to 1, as they are written or written out."""
    pairs = ((name.lower(), one.lower()), (_spelled(name), _spelled(one)))
    return max(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs)


def _spelled(name: str) -> str:
    """Return a name as it is compared: in small letters, with abbreviations written out."""
    return re.sub(r"\blr\b|(?<=_)lr(?![a-z])", "learning_rate", name.lower().replace("+", "p"))
