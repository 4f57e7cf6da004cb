"""A finished report and its files: pages, figures, tables as CSV, and all numbers as JSON."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.figures.style import png_bytes, svg_text
from pipeline.files.atomic import replace_file, write_whole
from pipeline.files.paths import lasting
from spire_core.errors import ConfigError
from sweeps.report.contents import HTML, JSON, MARKDOWN, Report
from sweeps.report.pages import GENERATOR, html_page, markdown_page
from sweeps.report.stats import Estimate
from sweeps.report.tables import TABLES, Cell, Table

SWEEP, CHECK = "sweep.yaml", ".can-be-written"
ESTIMATED = ("", ": half interval", ": n")  # ends of the names of an estimate's three columns
ALWAYS = (HTML, MARKDOWN, JSON, "tables/runs.csv", "tables/parameters.csv")
HEAD_BYTES = 1000  # of a page, in which its generator stands
OF_A_REPORT = re.compile(r"(figures/[\w.-]+\.(png|svg)|tables/[\w.-]+\.csv)")


def file_name(name: str) -> str:
    """Return a sweep's name as that of a folder."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "report"


def make_folder(folder: Path) -> Path:
    """Return the report's absolute folder with its subfolders.

    ConfigError if it cannot be written, does not last, or has a file under the name of one that
    every report writes, which is not a report's.
    """
    folder = lasting(folder, "--out")
    try:
        _check_replaced(folder, ALWAYS)
        for name in ("figures", "tables"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        replace_file(folder / CHECK, b"")
        (folder / CHECK).unlink()
    except OSError as error:
        raise ConfigError(
            f"expected a folder that can be written, got {folder} ({error}): name another"
        ) from error
    return folder


def report_files(report: Report) -> dict[str, bytes]:
    """Return all files of a report by their names in its folder.

    ConfigError if one of them would replace a file there that is not a report's.
    """
    drawn = {picture.name: svg_text(picture.figure) for picture in report.pictures}
    texts = {  # first the list by which a next report knows the others
        JSON: json.dumps(report_json(report), indent=1, allow_nan=False) + "\n",
        HTML: html_page(report, drawn),
        MARKDOWN: markdown_page(report),
    }
    if report.origin.sweep_file:
        texts[SWEEP] = report.origin.sweep_file
    texts |= {f"figures/{name}.svg": text for name, text in drawn.items()}
    texts |= {f"tables/{table.name}.csv": csv_text(table) for table in report.tables}
    files = {name: text.encode() for name, text in texts.items()}
    files |= {f"figures/{shown.name}.png": png_bytes(shown.figure) for shown in report.pictures}
    files |= {f"figures/{shot.name}.png": shot.png for shot in report.snapshots}
    _check_replaced(report.folder, files)
    return files


def write_files(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write a report's files into its folder and return their paths.

    They take the place of those of an older report there, and no other file is touched.
    """
    for name in files_of_older(folder, files) - files.keys():  # while their list is there
        (folder / name).unlink(missing_ok=True)
    for name, data in files.items():
        write_whole(folder / name, data)
    return [folder / name for name in files]


def _check_replaced(folder: Path, names: Iterable[str]) -> None:
    """Raise ConfigError if one of these names is there as a file that is not a report's."""
    names = [*names]
    older = files_of_older(folder, names)
    foreign = [name for name in names if name not in older and (folder / name).exists()]
    if foreign:
        raise ConfigError(
            f"expected a folder without a file {foreign[0]} that is not a report's, got "
            f"{folder}: the report's own would replace it, so name another folder"
        )


def files_of_older(folder: Path, names: Iterable[str]) -> set[str]:
    """Return the names of the files of the report that lies there: as it lists them.

    A report whose list nobody kept is known by its page. Its files are those that have the names of
    a report's, but a sweep's file, which may be its users' own; its figures are out of `names`.
    """
    try:
        told = json.loads((folder / JSON).read_text())["artifacts"]
        listed = {*map(str, told.get("others", (SWEEP,)))}  # earlier reports lack the list
        for kind, ending in (("figures", "svg"), ("tables", "csv")):
            found = [f"{kind}/{Path(str(path)).name}" for path in told[kind]]
            listed |= {*found, *(str(Path(name).with_suffix(f".{ending}")) for name in found)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        if not _has_page(folder):
            return set()
        figures = {name for name in names if name.startswith("figures/")}
        return {HTML, MARKDOWN, *figures, *(f"tables/{name}.csv" for name in TABLES)}
    own = {name for name in listed if name == SWEEP or OF_A_REPORT.fullmatch(name)}
    return {HTML, MARKDOWN, JSON, *own}


def _has_page(folder: Path) -> bool:
    """Return whether a report's page lies there, whatever else is left of the report."""
    try:
        with (folder / HTML).open("rb") as file:
            return GENERATOR.encode() in file.read(HEAD_BYTES)
    except OSError:
        return False


def report_json(report: Report) -> dict[str, Any]:
    """Return the whole report as one plain dictionary without NaN, as `report.json` holds it."""
    return {
        "name": report.name,
        "parent_run_id": report.parent_id,
        "question": report.origin.question,
        "when": report.origin.when,
        "command": report.origin.command,
        "links": dict(report.origin.links),
        "answers": report.answers,
        "facts": report.facts,
        "notes": report.notes,
        "tables": {
            table.name: [
                {column: _json_cell(cell) for column, cell in zip(table.columns, row, strict=True)}
                for row in table.rows
            ]
            for table in report.tables
        },
        "artifacts": {
            "folder": str(report.folder),
            "html": str(report.html),
            "markdown": str(report.markdown),
            "figures": [str(report.folder / "figures" / f"{p.name}.png") for p in report.pictures],
            "tables": [str(report.folder / "tables" / f"{t.name}.csv") for t in report.tables],
            "others": [SWEEP] * bool(report.origin.sweep_file)
            + [f"figures/{shot.name}.png" for shot in report.snapshots],
        },
    }


def _json_cell(cell: Cell) -> Any:
    return asdict(cell) if isinstance(cell, Estimate) else cell


def csv_text(table: Table) -> str:
    """Return a table as CSV: an estimate is three columns, its mean, half its interval and n."""
    is_estimate = [
        any(isinstance(row[i], Estimate) for row in table.rows) for i in range(len(table.columns))
    ]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = zip(table.columns, is_estimate, strict=True)
    writer.writerow([name for column, wide in head for name in _csv_names(column, wide)])
    for row in table.rows:
        cells = zip(row, is_estimate, strict=True)
        writer.writerow([text for cell, wide in cells for text in _csv_cells(cell, wide)])
    return text.getvalue()


def _csv_names(column: str, is_estimate: bool) -> Sequence[str]:
    return [f"{column}{end}" for end in ESTIMATED] if is_estimate else [column]


def _csv_cells(cell: Cell, is_estimate: bool) -> Sequence[object]:
    if isinstance(cell, Estimate):
        return (repr(cell.mean), "" if cell.half_width is None else repr(cell.half_width), cell.num)
    blank = "" if cell is None else cell
    return (blank, "", "") if is_estimate else (blank,)
