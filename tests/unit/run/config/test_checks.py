"""What a group of settings declares about each of them."""

import dataclasses
import math
import re
from typing import Annotated, Any, get_origin

import pytest

from pipeline.config.schema import Config
from pipeline.theory.config import TheoryConfig
from spire_core.config.checks import Choice, Range
from spire_core.errors import ConfigError


@pytest.mark.parametrize(
    ("limits", "inside", "outside", "words"),
    [
        (Range(1), 1, 0, "in [1, inf), got 0"),
        (Range(1, 10), (1, 10), math.nan, "in [1, 10], got nan"),
        (Range(0, below=1), 0, 1.0, "in [0, 1), got 1.0"),
        (Range(above=0, at_most=1), 1, (0, 1), "in (0, 1], got 0"),
        (Range(1), "auto", (), "entries of x, got none"),
    ],
)
def test_a_number_outside_its_range_is_refused(
    limits: Range, inside: Any, outside: Any, words: str
) -> None:
    limits.check("x", inside)
    limits.check("x", None)
    with pytest.raises(ConfigError, match=re.escape(words)):
        limits.check("x", outside)


def test_a_choice_names_the_one_that_was_meant() -> None:
    Choice("loop", "grouped").check("x", "loop")
    with pytest.raises(ConfigError, match="x out of loop, grouped, got 'group': did you mean"):
        Choice("loop", "grouped").check("x", "group")


def records(kind: Any) -> list[Any]:
    groups = [f.type for f in dataclasses.fields(kind) if dataclasses.is_dataclass(f.type)]
    return [kind, *(record for group in groups for record in records(group))]


@pytest.mark.parametrize("kind", [*records(Config), *records(TheoryConfig)])
def test_each_group_checks_what_it_declares(kind: Any) -> None:
    """Out of bounds by far, each setting with a range is refused by its own name."""
    for field in dataclasses.fields(kind):
        if get_origin(field.type) is not Annotated:
            continue
        limits = [limit for limit in field.type.__metadata__ if isinstance(limit, Range)]
        has_most = any(min(limit.at_most, limit.below) < math.inf for limit in limits)
        for number in (-1.0e9, 1.0e30) if has_most else (-1.0e9,):
            odd = (number,) if get_origin(field.type.__origin__) is tuple else number
            with pytest.raises(ConfigError, match=rf"{field.name}\b.*, got "):
                kind(**{field.name: odd})
