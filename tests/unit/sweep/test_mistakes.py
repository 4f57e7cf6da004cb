"""Each mistake of benchmarks/mistakes.yaml has its answer, and docs/mistakes.md shows it."""

from pathlib import Path

import pytest

from benchmarks.mistakes import PAGE, Reply, mistakes, page, type_all

GROUPS = mistakes()


@pytest.fixture(scope="module")
def replies(mnist_root: Path) -> dict[str, Reply]:
    return type_all(GROUPS, mnist_root)


@pytest.mark.parametrize("title", GROUPS)
def test_each_mistake_is_one_sentence_with_the_advice(
    title: str, replies: dict[str, Reply]
) -> None:
    faults = {row.typed: replies[row.typed].fault(row.advice) for row in GROUPS[title]}
    assert {typed: fault for typed, fault in faults.items() if fault} == {}


def test_the_page_shows_what_is_answered(replies: dict[str, Reply]) -> None:
    assert PAGE.read_text() == page(GROUPS, replies), "write it: python -m benchmarks.mistakes"
