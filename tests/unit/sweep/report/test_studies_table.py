"""The table of studies on docs/results.md names the seeds and commits of the committed rows."""

import re
from collections.abc import Sequence

import pytest

from benchmarks.published import study_rows
from benchmarks.recompute import DOCS, studies

LINE = re.compile(r"\| \[`spire sweep ([\w-]+)`\].*\n")


def lines() -> dict[str, Sequence[str]]:
    """Return the cells of each study's line."""
    text = (DOCS / "results.md").read_text()
    return {found[1]: found[0].strip().strip("|").split(" | ") for found in LINE.finditer(text)}


def test_every_study_with_rows_has_a_line() -> None:
    assert sorted(lines()) == [folder.name for folder in studies()]


@pytest.mark.parametrize("study", lines())
def test_a_line_names_the_seeds_and_commits_of_its_rows(study: str) -> None:
    rows = study_rows(DOCS / "results" / study)
    _, _, seeds, commits, _ = lines()[study]
    named = [int(number) for number in re.findall(r"\d+", seeds)]
    assert sorted({int(row["seed"]) for row in rows}) == list(range(named[0], named[-1] + 1))
    own, _, _ = commits.partition(";")  # attacks have a commit of their own
    revisions = {row["git_revision"] for row in rows}
    known = {commit: {r for r in revisions if _is(commit, r)} for commit in own.split(", ")}
    assert all(known.values()), "a commit that no row has"
    assert set.union(*known.values()) == revisions


def _is(commit: str, revision: str) -> bool:
    """Return whether a revision is this commit, be it a longer name; of changed files it is not."""
    return revision == commit or (revision.startswith(commit) and revision.isalnum())
