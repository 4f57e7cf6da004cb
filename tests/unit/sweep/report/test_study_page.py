"""The part of a study's page that a report writes: out of rows alone, between two marks."""

import csv
import shutil
from pathlib import Path

import pytest

from benchmarks.recompute import DOCS, stale_part, studies
from benchmarks.refresh import refresh
from spire_core.errors import ConfigError
from sweeps.report.make import make_report
from sweeps.report.stretches import read_stretches
from sweeps.report.study_page import (
    BEGINS,
    ENDS,
    check_study_page,
    section_of,
    with_section,
    write_study_page,
)

ROWS = DOCS / "results" / "study-styles-cpu" / "rows.csv"
WORDS = "What an author says."


def test_a_new_page_says_what_the_rows_say_and_keeps_what_its_author_adds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.config.tracking import TrackingConfig

    monkeypatch.setenv("SPIRE_ROOT", str(tmp_path))
    rows, page = tmp_path / "study" / "rows.csv", tmp_path / "study" / "README.md"
    report = make_report(
        TrackingConfig(), [], tmp_path / "study" / "report", rows, read_stretches([ROWS])
    )
    assert check_study_page(page, rows) == page
    write_study_page(page, report)
    text = page.read_text()
    assert text.startswith("# study-styles-cpu\n\n")
    part = text.split("### New clients\n")[1].split("###")[0]
    assert "| 0.190 ± 0.039 |" in part  # SPIRE's KID after adaptation, as on results.md
    assert "| 811cc07 | spire, fedavg_ft | 10, 11, 12, 13, 14, 15, 16, 17 | 16 |" in text

    page.write_text(f"{WORDS}\n{text}\n{WORDS}\n")
    write_study_page(page, report)
    assert page.read_text() == f"{WORDS}\n{text}\n{WORDS}\n"


def test_a_part_that_its_rows_do_not_give_is_found_and_written_again(tmp_path: Path) -> None:
    docs, study = tmp_path / "docs", tmp_path / "docs" / "results" / ROWS.parent.name
    shutil.copytree(ROWS.parent, study)
    (docs / "results.md").write_text((DOCS / "results.md").read_text())
    page, before = study / "README.md", (study / "README.md").read_text()
    page.write_text(before.replace("| 811cc07 |", "| 811cc08 |"))
    with (study / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    primary = None  # comparisons apart, the tables are of rows alone
    [mistake, *_] = stale_part(page, rows, primary)
    assert mistake.startswith("README.md: ")
    refresh(study, docs)
    assert page.read_text() == before
    page.write_text(WORDS)
    assert stale_part(page, rows, primary) == [
        "README.md: no part that follows from its rows: spire report --readme"
    ]


def test_every_study_with_rows_has_that_part() -> None:
    pages = [folder / "README.md" for folder in studies()]
    assert len(pages) >= 18
    assert [page for page in pages if section_of(page.read_text()) is None] == []


@pytest.mark.parametrize("text", [BEGINS, ENDS, f"{ENDS}\n{BEGINS}", f"{BEGINS}{BEGINS}{ENDS}"])
def test_a_page_with_half_of_its_marks_is_left_as_it_is(tmp_path: Path, text: str) -> None:
    page = tmp_path / "README.md"
    page.write_text(text)
    with pytest.raises(ConfigError, match="expected both marks of a report's part, once and in"):
        check_study_page(page, tmp_path / "rows.csv")
    assert page.read_text() == text


def test_a_page_needs_rows_and_has_to_be_a_text_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected --rows FILE with --readme, got none"):
        check_study_page(tmp_path / "README.md", None)
    (tmp_path / "README.md").write_bytes(b"\xff\xfe")
    for path in (tmp_path, tmp_path / "README.md"):
        with pytest.raises(ConfigError, match="expected a Markdown file that can be written"):
            check_study_page(path, tmp_path / "rows.csv")
    assert check_study_page(None, None) is None


def test_a_part_takes_the_place_of_an_older_one() -> None:
    page = Path("README.md")
    first = with_section(f"# A study\n\n{WORDS}", "1", page)
    assert first == f"# A study\n\n{WORDS}\n\n{BEGINS}\n1\n{ENDS}\n"
    assert with_section(first, "2", page) == first.replace("\n1\n", "\n2\n")
    assert section_of(first) == "1"
    assert section_of(WORDS) is None
