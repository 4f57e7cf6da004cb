"""What a group of settings declares about each of them, and what is said about a wrong one."""

import dataclasses
import math
from typing import Annotated, Any, get_origin

import pytest

from pipeline.config.schema import Config
from pipeline.theory.config import TheoryConfig
from spire_core.config.checks import Choice, Range, check_fields
from spire_core.errors import ConfigError


@pytest.mark.parametrize(
    ("limits", "number", "words"),
    [
        (Range(1), 0, "x of at least 1, got 0: raise it"),
        (Range(1, 10), 0, "x of at least 1, got 0: raise it"),
        (Range(1, 10), 11, "x in 1..10, got 11: change it"),
        (Range(1, 10), math.nan, "x in 1..10, got nan: change it"),
        (Range(above=0), 0, "x above 0, got 0: change it"),
        (Range(0, below=1), 1.0, "x in [0, 1), got 1.0: change it"),
        (Range(above=0, at_most=1, advice="use 0.5"), 2, "x in (0, 1], got 2: use 0.5"),
        (Range(above=0, below=1), 0.0, "x in (0, 1), got 0.0: change it"),
    ],
)
def test_a_number_outside_its_range_is_refused(limits: Range, number: float, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        limits.check("x", number)
    assert str(caught.value) == f"expected {words}"
    with pytest.raises(ConfigError):
        limits.check("x", (0.5, number))


def test_the_ends_of_a_range_belong_to_it_unless_they_are_open() -> None:
    for value in (1, 10, (1, 10), None, "auto"):
        Range(1, 10).check("x", value)
    Range(0, below=1).check("x", 0)
    Range(above=0, at_most=1).check("x", 1)
    with pytest.raises(ConfigError, match="expected entries of x, got none"):
        Range(1, 10).check("x", ())


def test_a_choice_names_the_one_that_was_meant() -> None:
    Choice("loop", "grouped").check("x", "loop")
    with pytest.raises(ConfigError, match="x as loop or grouped, got 'group': did you mean group"):
        Choice("loop", "grouped").check("x", "group")


def records(kind: Any) -> list[Any]:
    groups = [f.type for f in dataclasses.fields(kind) if dataclasses.is_dataclass(f.type)]
    return [kind, *(record for group in groups for record in records(group))]


@pytest.mark.parametrize("kind", [*records(Config), *records(TheoryConfig)])
def test_each_group_checks_what_it_declares(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_fields_without_a_declaration_are_left_alone() -> None:
    @dataclasses.dataclass
    class Group:
        free: int = -5
        bound: Annotated[int, Range(1)] = 1

    check_fields(Group(), "group")
    with pytest.raises(ConfigError, match=r"group\.bound of at least 1"):
        check_fields(Group(bound=0), "group")
