"""The report as one self-contained HTML page and as Markdown: nothing is loaded from elsewhere."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from importlib import resources
from typing import Any

from sweeps.report.contents import Report, Snapshot
from sweeps.report.figures import Picture
from sweeps.report.marks import best_cells
from sweeps.report.origins import CITATION
from sweeps.report.tables import HEAD, ID_CHARS, Cell, Table, cell_text

GENERATOR = '<meta name="generator" content="spire report">'  # in the page's head, to know it by
CSS_PIXELS = 110  # on the page for an inch of a figure
NOTE_COLUMNS = (*HEAD, "n", "KID, last round", "KID before", "KID after", "KID after, worst client")
NOTE_COLUMNS += ("TV after", "held-out after")
MOST_ANSWERS = 8  # that stand on the first screen: primary ones come first
LEAST = 0.6  # of that, below which a figure's text is too small: a narrow screen scrolls


def html_page(report: Report, drawn: Mapping[str, str]) -> str:
    """Return the page; `drawn` holds each picture's SVG by its name.

    Every text is escaped, because names may come from strangers.
    """
    from jinja2 import Environment, StrictUndefined  # needed by reports alone

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    source = (resources.files("sweeps.report") / "page.html.j2").read_text(encoding="utf-8")
    links = {run_id[:ID_CHARS]: link for run_id, link in report.origin.links.items()}
    *tables, runs, parameters = (_table_values(table, links) for table in report.tables)
    figures = [_figure_values(picture, drawn[picture.name]) for picture in report.pictures]
    return environment.from_string(source).render(
        generator=GENERATOR,
        report=report,
        parent_link=report.origin.links.get(report.parent_id or ""),
        answers=report.answers[:MOST_ANSWERS],
        more_answers=report.answers[MOST_ANSWERS:],
        main=figures[:1],
        figures=figures[1:],
        samples=[_snapshot_values(shot) for shot in report.samples],
        partitions=[_snapshot_values(shot) for shot in report.partitions],
        tables=tables,
        runs=runs,
        parameters=parameters,
        citation=CITATION,
    )


def _table_values(table: Table, links: Mapping[str, str]) -> dict[str, Any]:
    """Return a table as the template reads it: texts, which of them are best, and their links."""
    best = best_cells(table)

    def cell(row: int, column: int) -> dict[str, Any]:
        text = cell_text(table.rows[row][column])
        link = links.get(text) if table.columns[column] == "id" else None
        return {"text": text, "is_best": (row, column) in best, "link": link}

    columns = range(len(table.columns))
    return {
        "title": table.title,
        "caption": table.caption,
        "columns": table.columns,
        "is_text": _text_columns(table),
        "has_best": bool(best),
        "rows": [[cell(row, column) for column in columns] for row in range(len(table.rows))],
    }


def _figure_values(picture: Picture, svg: str) -> dict[str, Any]:
    """Return a picture as the template reads it."""
    width = picture.figure.get_figwidth() * CSS_PIXELS
    return {
        "title": picture.title,
        "caption": picture.caption,
        "source": _data_uri("svg+xml", svg.encode()),
        "width": round(width),
        "least": round(LEAST * width),
    }


def _snapshot_values(shot: Snapshot) -> dict[str, str]:
    return {
        "title": shot.title,
        "caption": shot.caption,
        "source": _data_uri("png", shot.png),
    }


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def markdown_page(report: Report) -> str:
    """Return the same in Markdown, its figures beside it under `figures/`."""
    origin, lines = report.origin, [f"# {plain(report.name)}", ""]
    for text in filter(None, (origin.question, origin.when)):
        lines += [plain(text), ""]
    lines += [f"- {plain(answer)}" for answer in report.answers] + [""] * bool(report.answers)
    lines += [f"- **{plain(word)}**: {plain(means)}" for word, means in report.words.items()]
    lines += [""] * bool(report.words)
    for shot in report.samples:
        lines += _markdown_picture(shot.name, f"New client, {shot.title}", shot.caption)
    for picture in report.pictures[:1]:
        lines += _markdown_picture(picture.name, picture.title, picture.caption)
    lines += [f"- **{plain(key)}**: {plain(value)}" for key, value in report.facts.items()]
    lines += [f"- **Command**: {plain(origin.command)}"] * bool(origin.command)
    lines += ["", *(f"- {plain(note)}" for note in report.notes), ""]
    *tables, runs, parameters = report.tables
    for table in tables:
        lines += markdown_table(table)
    for shown in (*report.pictures[1:], *report.partitions):
        lines += _markdown_picture(shown.name, shown.title, shown.caption)
    lines += [*markdown_table(runs), *markdown_table(parameters)]
    return "\n".join([*lines, "## Citation", "", "```bibtex", CITATION, "```", ""])


def sweep_note(report: Report) -> str:
    """Return the description of a sweep's run in MLflow: question, answers, a table of methods."""
    lines = [f"**{plain(report.name)}**", "", plain(report.origin.question), ""]
    lines += [f"- {plain(answer)}" for answer in report.answers[:MOST_ANSWERS]]
    if (more := len(report.answers) - MOST_ANSWERS) > 0:
        lines.append(f"- more answers in the report: {more}")
    lines.append("")
    table = report.table("new_clients") or report.table("pretraining")
    if table is not None:
        shown = [i for i, column in enumerate(table.columns) if column in NOTE_COLUMNS]
        columns = tuple(table.columns[i] for i in shown)
        rows = tuple(tuple(row[i] for i in shown) for row in table.rows)
        lines += [*_markdown_rows(replace(table, columns=columns, rows=rows)), ""]
    return "\n".join([*lines, "All of it: `report/report.html` among the artifacts."])


def _markdown_picture(name: str, title: str, caption: str) -> list[str]:
    title = plain(title)
    return [f"## {title}", "", f"![{title}](figures/{name}.png)", "", plain(caption), ""]


def markdown_table(table: Table, level: int = 2) -> list[str]:
    """Return the lines of a table below a heading of this level, with its caption if it has one."""
    head = [f"{'#' * level} {plain(table.title)}", ""]
    head += [plain(table.caption), ""] if table.caption else []
    return [*head, *_markdown_rows(table), ""]


def _markdown_rows(table: Table) -> list[str]:
    def row(texts: Sequence[str]) -> str:
        return f"| {' | '.join(texts)} |"

    rule = row([":--" if is_text else "--:" for is_text in _text_columns(table)])
    rows = [row([plain(cell_text(cell)) for cell in cells]) for cells in table.rows]
    return [row([plain(column) for column in table.columns]), rule, *rows]


def plain(text: str) -> str:
    """Return a text on one line, with what Markdown and its HTML would interpret escaped."""
    return re.sub(r"([\\|`*\[\]])", r"\\\1", escape(" ".join(text.split()), quote=False))


def _text_columns(table: Table) -> list[bool]:
    """Return which columns hold words; these are aligned to the left."""

    def is_words(cell: Cell) -> bool:
        return isinstance(cell, str)

    return [any(is_words(row[i]) for row in table.rows) for i in range(len(table.columns))]
