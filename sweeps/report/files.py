"""A finished report and its files: pages, figures, tables as CSV, and all numbers as JSON."""

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.figures.style import png_bytes, svg_text
from pipeline.files.atomic import replace_file, write_whole
from pipeline.files.paths import lasting
from spire_core.errors import ConfigError
from sweeps.report.contents import HTML, JSON, MARKDOWN, Report
from sweeps.report.pages import html_page, markdown_page
from sweeps.report.stats import Estimate
from sweeps.report.tables import Cell, Table

SWEEP, CHECK = "sweep.yaml", ".can-be-written"
OF_A_REPORT = re.compile(r"(figures/[\w.-]+\.(png|svg)|tables/[\w.-]+\.csv)")


def file_name(name: str) -> str:
    """Return a sweep's name as that of a folder."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "report"


def make_folder(folder: Path) -> Path:
    """Return the report's absolute folder with its subfolders.

    ConfigError if it cannot be written, or does not last.
    """
    folder = lasting(folder, "--out")
    try:
        for name in ("figures", "tables"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        replace_file(folder / CHECK, b"")
        (folder / CHECK).unlink()
    except OSError as error:
        raise ConfigError(
            f"expected a folder that can be written, got {folder} ({error}): name another"
        ) from error
    return folder


def write_report(report: Report) -> list[Path]:
    """Write all files into the report's folder and return their paths.

    They take the place of those of an older report there, and no other file is touched. ConfigError
    if one of them would replace a file that is not a report's.
    """
    drawn = {picture.name: svg_text(picture.figure) for picture in report.pictures}
    files: dict[str, str | bytes] = {  # first the list by which a next report knows the others
        JSON: json.dumps(report_json(report), indent=1, allow_nan=False) + "\n",
        HTML: html_page(report, drawn),
        MARKDOWN: markdown_page(report),
    }
    if report.origin.sweep_file:
        files[SWEEP] = report.origin.sweep_file
    files |= {
        f"figures/{picture.name}.png": png_bytes(picture.figure) for picture in report.pictures
    }
    files |= {f"figures/{name}.svg": text for name, text in drawn.items()}
    files |= {f"figures/{shot.name}.png": shot.png for shot in report.snapshots}
    files |= {f"tables/{table.name}.csv": csv_text(table) for table in report.tables}
    older = _files_of_older(report.folder)
    foreign = [name for name in files if name not in older and (report.folder / name).exists()]
    if foreign:
        raise ConfigError(
            f"expected a folder without a file {foreign[0]} that is not a report's, got "
            f"{report.folder}: the report's own would replace it, so name another folder"
        )
    for name in older - files.keys():  # while the list that names them is there
        (report.folder / name).unlink(missing_ok=True)
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        write_whole(report.folder / name, data)
    return [report.folder / name for name in files]


def _files_of_older(folder: Path) -> set[str]:
    """Return the names of the files of the report that lies there."""
    try:
        told = json.loads((folder / JSON).read_text())["artifacts"]
        names = {*map(str, told.get("others", (SWEEP,)))}  # earlier reports lack the list
        for kind, ending in (("figures", "svg"), ("tables", "csv")):
            found = [f"{kind}/{Path(str(path)).name}" for path in told[kind]]
            names |= {*found, *(str(Path(name).with_suffix(f".{ending}")) for name in found)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()
    own = {name for name in names if name == SWEEP or OF_A_REPORT.fullmatch(name)}
    return {HTML, MARKDOWN, JSON, *own}


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
            **({"rows": str(report.rows)} if report.rows else {}),
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
    return (column, f"{column}: half interval", f"{column}: n") if is_estimate else (column,)


def _csv_cells(cell: Cell, is_estimate: bool) -> Sequence[object]:
    if isinstance(cell, Estimate):
        return (repr(cell.mean), "" if cell.half_width is None else repr(cell.half_width), cell.num)
    blank = "" if cell is None else cell
    return (blank, "", "") if is_estimate else (blank,)
