"""A report's folder: what an older report left there goes, and nothing else is touched."""

from pathlib import Path

import pytest

from spire_core.errors import ConfigError
from sweeps.report.contents import Report
from sweeps.report.files import make_folder, report_files, write_files
from sweeps.report.tables import Table

OWN = ("README.md", "rows.csv", "sweep.yaml", "kid.png", "tables/mine.csv")


def write(folder: Path, *names: str) -> list[Path]:
    """Write a report with these tables, and those that every report has."""
    names = (*names, "runs", "parameters")
    tables = [Table(name, name, "", ("n",), ((1,),)) for name in names]
    report = Report("study", make_folder(folder), None, [], {}, [], tables, [])
    return write_files(report.folder, report_files(report))


def test_a_study_keeps_its_own_files_beside_a_report_whose_list_nobody_kept(tmp_path: Path) -> None:
    """The page is known, and with it the files of a report's names."""
    write(tmp_path, "new_clients", "epochs")
    for name in ("report.json", "report.md"):
        (tmp_path / name).unlink()
    for name in OWN:
        (tmp_path / name).write_text("mine")
    write(tmp_path, "new_clients")
    assert {(tmp_path / name).read_text() for name in OWN} == {"mine"}
    names = {path.name for path in (tmp_path / "tables").iterdir()}
    assert names == {"new_clients.csv", "mine.csv", "runs.csv", "parameters.csv"}
    assert (tmp_path / "report.md").is_file()


def test_a_page_that_is_no_reports_is_refused_before_anything_is_worked_out(tmp_path: Path) -> None:
    page = "<!DOCTYPE html>\n<html><head><title>mine</title>"
    (tmp_path / "report.html").write_text(page)
    with pytest.raises(ConfigError, match=r"without a file report\.html that is not a report's"):
        make_folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_a_file_that_some_reports_write_is_refused_before_any_is_written(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "epochs.csv").write_text("mine")
    write(tmp_path / "other", "epochs")
    with pytest.raises(ConfigError, match=r"without a file tables/epochs\.csv that is not a"):
        write(tmp_path, "epochs")
    assert not (tmp_path / "report.html").exists()
