"""A finished report and its files: pages, figures, tables as CSV, and all numbers as JSON."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from pipeline.figures.style import svg_text
from pipeline.files.paths import lasting
from spire_core.errors import ConfigError
from sweeps.report.contents import HTML, JSON, MARKDOWN, Report
from sweeps.report.figures import Picture
from sweeps.report.pages import html_page, markdown_page
from sweeps.report.stats import Estimate
from sweeps.report.tables import Cell, Table

SWEEP = "sweep.yaml"


def make_folder(folder: Path) -> Path:
    """Return the report's absolute folder with its subfolders, without an older report's files.

    ConfigError if it cannot be written, or does not last.
    """
    folder = lasting(folder, "--out")
    try:
        for name, ending in (("figures", "png"), ("figures", "svg"), ("tables", "csv")):
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
    drawn = {picture.name: svg_text(picture.figure) for picture in report.pictures}
    files: dict[str, str | bytes] = {
        HTML: html_page(report, drawn),
        MARKDOWN: markdown_page(report),
        JSON: json.dumps(report_json(report), indent=1, allow_nan=False) + "\n",
    }
    if report.origin.sweep_file:
        files[SWEEP] = report.origin.sweep_file
    files |= {f"figures/{picture.name}.png": _png(picture) for picture in report.pictures}
    files |= {f"figures/{name}.svg": text for name, text in drawn.items()}
    files |= {f"figures/{shot.name}.png": shot.png for shot in report.snapshots}
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
