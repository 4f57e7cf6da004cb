"""What a group of settings declares about each of them."""

import dataclasses
import math
from typing import Annotated, Any, get_origin

import pytest

from pipeline.config.schema import Config
from pipeline.theory.config import TheoryConfig
from spire_core.config.checks import Choice, Range
from spire_core.errors import ConfigError


@pytest.mark.parametrize(
    ("limits", "number", "words"),
    [
        (Range(1), 0, "in [1, inf), got 0"),
        (Range(1, 10), math.nan, "in [1, 10], got nan"),
        (Range(above=0), 0, "in (0, inf), got 0"),
        (Range(0, below=1), 1.0, "in [0, 1), got 1.0"),
        (Range(above=0, at_most=1), 2, "in (0, 1], got 2"),
    ],
)
def test_a_number_outside_its_range_is_refused(limits: Range, number: float, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        limits.check("x", number)
    assert words in str(caught.value)
    with pytest.raises(ConfigError):
        limits.check("x", (number, number))


def test_the_ends_of_a_range_belong_to_it_unless_they_are_open() -> None:
    for value in (1, 10, (1, 10), None, "auto"):
        Range(1, 10).check("x", value)
    Range(0, below=1).check("x", 0)
    Range(above=0, at_most=1).check("x", 1)
    with pytest.raises(ConfigError, match="expected entries of x, got none"):
        Range(1, 10).check("x", ())


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
