"""A finished report and its files: pages, figures, tables as CSV, and all numbers as JSON."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.files.paths import lasting
from spire_core.errors import ConfigError
from sweeps.report.figures import Picture
from sweeps.report.pages import html_page, markdown_page
from sweeps.report.stats import Estimate
from sweeps.report.tables import Cell, Table

HTML, MARKDOWN, JSON = "report.html", "report.md", "report.json"


@dataclass(frozen=True)
class Report:
    """What a report says, and where it lies; `parent_id` is the sweep that it is attached to."""

    name: str
    folder: Path
    parent_id: str | None
    answers: list[str]
    facts: dict[str, str]
    notes: list[str]
    tables: list[Table]  # the runs come last
    pictures: list[Picture]
    rows: Path | None = None  # the file of each client's scores, if one was asked for

    def table(self, name: str) -> Table | None:
        """Return the table of that name, if there is one."""
        return next((table for table in self.tables if table.name == name), None)

    @property
    def html(self) -> Path:
        return self.folder / HTML

    @property
    def markdown(self) -> Path:
        return self.folder / MARKDOWN


def make_folder(folder: Path) -> Path:
    """Return the report's absolute folder with its subfolders, without an older report's files.

    ConfigError if it cannot be written, or does not last.
    """
    folder = lasting(folder, "--out")
    try:
        for name, ending in (("figures", "png"), ("tables", "csv")):
            (folder / name).mkdir(parents=True, exist_ok=True)
            if (folder / JSON).is_file():  # of an older report, and with it these
                for old in (folder / name).glob(f"*.{ending}"):
                    old.unlink()
        (folder / JSON).touch()
    except OSError as error:
        raise ConfigError(
            f"expected a folder that can be written, got {folder} ({error}): name another"
        ) from error
    return folder


def write_report(report: Report) -> list[Path]:
    """Write all files into the report's folder and return their paths."""
    images = {picture.name: _png(picture) for picture in report.pictures}
    parts = (report.name, report.answers, report.facts, report.notes, report.tables)
    files: dict[str, str | bytes] = {
        HTML: html_page(*parts, report.pictures, images),
        MARKDOWN: markdown_page(*parts, report.pictures),
        JSON: json.dumps(report_json(report), indent=1, allow_nan=False) + "\n",
    }
    files |= {f"figures/{name}.png": png for name, png in images.items()}
    files |= {f"tables/{table.name}.csv": csv_text(table) for table in report.tables}
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (report.folder / name).write_bytes(data)
    return [report.folder / name for name in files]


def report_json(report: Report) -> dict[str, Any]:
    """Return the whole report as one plain dictionary without NaN, as `report.json` holds it."""
    return {
        "name": report.name,
        "parent_run_id": report.parent_id,
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


def _png(picture: Picture) -> bytes:
    """Return a picture as a PNG of 256 colours, which no eye tells apart, a third of the size."""
    drawn, packed = io.BytesIO(), io.BytesIO()
    picture.figure.savefig(drawn, format="png", dpi=200)
    colours = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    colours.save(packed, "PNG", optimize=True)
    return packed.getvalue()
