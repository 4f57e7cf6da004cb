"""The report as one self-contained HTML page and as Markdown: nothing is loaded from elsewhere."""

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import Any

from sweeps.report.figures import Picture
from sweeps.report.tables import Cell, Table, cell_text

CSS_PIXELS = 110  # on the page for an inch of a figure


def html_page(
    name: str,
    answers: Sequence[str],
    facts: Mapping[str, str],
    notes: Sequence[str],
    tables: Sequence[Table],
    pictures: Sequence[Picture],
    images: Mapping[str, bytes],
) -> str:
    """Return the page; `images` holds each picture's PNG by its name.

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
    *first, runs = map(_table_values, tables)
    figures = [_figure_values(picture, images[picture.name]) for picture in pictures]
    return environment.from_string(source).render(
        name=name,
        answers=answers,
        facts=facts,
        notes=notes,
        tables=first,
        figures=figures,
        runs=runs,
    )


def _table_values(table: Table) -> dict[str, Any]:
    """Return a table as the template reads it, with its cells as texts."""
    return {
        "title": table.title,
        "caption": table.caption,
        "columns": table.columns,
        "is_text": _text_columns(table),
        "rows": [[cell_text(cell) for cell in row] for row in table.rows],
    }


def _figure_values(picture: Picture, png: bytes) -> dict[str, Any]:
    """Return a picture as the template reads it."""
    return {
        "title": picture.title,
        "caption": picture.caption,
        "png": base64.b64encode(png).decode(),
        "width": round(picture.figure.get_figwidth() * CSS_PIXELS),
    }


def markdown_page(
    name: str,
    answers: Sequence[str],
    facts: Mapping[str, str],
    notes: Sequence[str],
    tables: Sequence[Table],
    pictures: Sequence[Picture],
) -> str:
    """Return the same in Markdown, its figures beside it under `figures/`."""
    lines = [f"# {_plain(name)}", ""]
    lines += [f"- {_plain(answer)}" for answer in answers] + [""] * bool(answers)
    lines += [f"- **{_plain(key)}**: {_plain(value)}" for key, value in facts.items()] + [""]
    lines += [f"- {_plain(note)}" for note in notes] + [""]
    *first, runs = tables
    for table in first:
        lines += _markdown_table(table)
    for picture in pictures:
        title = _plain(picture.title)
        lines += [f"## {title}", "", f"![{title}](figures/{picture.name}.png)", ""]
        lines += [_plain(picture.caption), ""]
    return "\n".join([*lines, *_markdown_table(runs)])


def _markdown_table(table: Table) -> list[str]:
    def row(texts: Sequence[str]) -> str:
        return f"| {' | '.join(texts)} |"

    rule = row([":--" if is_text else "--:" for is_text in _text_columns(table)])
    rows = [row([_plain(cell_text(cell)) for cell in cells]) for cells in table.rows]
    head = row([_plain(column) for column in table.columns])
    return [f"## {_plain(table.title)}", "", _plain(table.caption), "", head, rule, *rows, ""]


def _plain(text: str) -> str:
    """Return a text on one line, with what Markdown and its HTML would interpret escaped."""
    return re.sub(r"([\\|`*\[\]])", r"\\\1", escape(" ".join(text.split()), quote=False))


def _text_columns(table: Table) -> list[bool]:
    """Return which columns hold words; these are aligned to the left."""

    def is_words(cell: Cell) -> bool:
        return isinstance(cell, str)

    return [any(is_words(row[i]) for row in table.rows) for i in range(len(table.columns))]
