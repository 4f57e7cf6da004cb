"""The part of a study's page that a report writes: out of rows, between two marks."""

import csv
import shutil
from pathlib import Path

import pytest

from benchmarks.recompute import DOCS, findings_of, groups_of, stale_part, studies
from benchmarks.refresh import refresh
from pipeline.config.tracking import TrackingConfig
from spire_core.errors import ConfigError
from sweeps.report.contents import Report
from sweeps.report.make import make_report
from sweeps.report.primary import primary_table
from sweeps.report.stretches import read_stretches
from sweeps.report.study_page import (
    COMPARISONS,
    ENDS,
    NEW,
    check_study_page,
    section_of,
    with_section,
    write_study_page,
)

ROWS = DOCS / "results" / "study-styles-cpu" / "rows.csv"
WORDS = "What an author says."
COMMIT = "| 811cc07 | spire, fedavg_ft | 10, 11, 12, 13, 14, 15, 16, 17 | 16 |"


def rows_of(path: Path = ROWS) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Report:
    """Of rows alone, so that it has no primary comparisons."""
    monkeypatch.setenv("SPIRE_ROOT", str(tmp_path))
    rows, out = tmp_path / "data" / "styles.csv", tmp_path / "report"
    return make_report(TrackingConfig(), [], out, rows, read_stretches([ROWS]))


def test_a_page_says_what_the_rows_say_and_keeps_what_its_author_adds(
    report: Report, tmp_path: Path
) -> None:
    page = tmp_path / "study" / "README.md"
    assert check_study_page(page, report.rows) == page
    write_study_page(page, report)
    text = page.read_text()
    assert text.startswith("# study-styles-cpu\n\n")
    assert "out of [rows](../data/styles.csv) of single clients" in text
    part = text.split("### New clients\n")[1].split("###")[0]
    assert "| 0.190 ± 0.039 |" in part  # SPIRE's KID after adaptation, as on results.md
    assert COMMIT in text

    page.write_text(f"{WORDS}\n{text}\n{WORDS}\n")
    write_study_page(page, report)
    assert page.read_text() == f"{WORDS}\n{text}\n{WORDS}\n"


def test_rows_alone_do_not_take_the_comparisons_of_a_page_away(
    report: Report, tmp_path: Path
) -> None:
    page = tmp_path / "README.md"
    shutil.copy(ROWS.with_name("README.md"), page)
    before = page.read_text()
    assert COMPARISONS in before
    with pytest.raises(ConfigError, match="got a report of rows alone: name the sweep"):
        write_study_page(page, report)
    assert page.read_text() == before


def test_a_part_that_its_rows_do_not_give_is_found_and_written_again(tmp_path: Path) -> None:
    docs, study = tmp_path / "docs", tmp_path / "docs" / "results" / ROWS.parent.name
    shutil.copytree(ROWS.parent, study)
    shutil.copy(DOCS / "results.md", docs)
    page, rows = study / "README.md", rows_of()
    before, primary = page.read_text(), primary_table(findings_of(study.name, groups_of(rows)))
    assert stale_part(page, rows, primary) == []
    page.write_text(before.replace("| 811cc07 |", "| 811cc08 |"))
    wrong = COMMIT.replace("811cc07", "811cc08")
    assert stale_part(page, rows, primary) == [f"README.md: {wrong!r}, {COMMIT!r} worked out"]
    refresh(study, docs)
    assert page.read_text() == before
    page.write_text(WORDS)
    assert stale_part(page, rows, primary) == [
        "README.md: no part that follows from its rows: spire report --readme"
    ]
    (study / "published.csv").unlink()
    assert refresh(study, docs) == 0
    assert COMMIT in page.read_text()


def test_every_study_with_rows_has_that_part() -> None:
    pages = [folder / "README.md" for folder in studies()]
    assert len(pages) >= 18
    assert [page for page in pages if section_of(page.read_text()) is None] == []


def test_a_mark_may_name_the_tables_that_a_page_takes() -> None:
    mark = NEW.replace(" -->", ": new_clients -->")
    text = with_section(f"{WORDS}\n\n{mark}\nolder\n{ENDS}\n", rows_of(), None, Path("a.md"))
    assert text.startswith(f"{WORDS}\n\n{mark}\n## What the rows say\n")
    titles = [line for line in text.splitlines() if line.startswith("### ")]
    assert titles == ["### New clients", "### Commits"]
    strange = mark.replace("new_clients", "new_clients, coverage")
    with pytest.raises(ConfigError, match=r"in the mark of a\.md, got coverage: correct the mark"):
        with_section(f"{strange}{ENDS}", rows_of(), None, Path("a.md"))


@pytest.mark.parametrize("text", [NEW, ENDS, f"{ENDS}\n{NEW}", f"{NEW}{NEW}{ENDS}"])
def test_a_page_with_half_of_its_marks_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    page = tmp_path / "README.md"
    page.write_text(text)
    with pytest.raises(ConfigError, match="expected both marks of a report's part, once and in"):
        check_study_page(page, tmp_path / "rows.csv")


def test_a_page_needs_rows_and_a_name_of_its_own(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    with pytest.raises(ConfigError, match="expected --rows FILE with --readme, got none"):
        check_study_page(tmp_path / "README.md", None)
    for path in (rows, tmp_path / "report.md"):
        with pytest.raises(ConfigError, match=r"expected a page such as README\.md in --readme"):
            check_study_page(path, rows)
    (tmp_path / "README.md").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="expected a Markdown file that can be written"):
        check_study_page(tmp_path / "README.md", rows)
    assert check_study_page(None, None) is None
