"""The report as one self-contained HTML page and as Markdown: nothing is loaded from elsewhere."""

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape

from sweeps.report.figures import Picture
from sweeps.report.tables import Cell, Table, cell_text

CSS_PIXELS = 110  # on the page for an inch of a figure
CSS = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 78rem; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.87rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.5rem; text-align: right; white-space: nowrap; }
th { border-bottom: 1.5px solid #1a1a1a; white-space: normal; vertical-align: bottom; }
th.text, td.text { text-align: left; }
tbody tr:nth-child(even) { background: #f4f4f4; }
p.caption, figcaption { color: #444; font-size: 0.87rem; max-width: 52rem; }
dt { font-weight: 600; } dd { margin: 0 0 0.4rem 0; }
figure { margin: 1.5rem 0; } img { max-width: 100%; height: auto; }
@media print { .wide { overflow: visible; } table { font-size: 0.65rem; }
  figure { break-inside: avoid; } }
"""


def html_page(
    name: str,
    facts: Mapping[str, str],
    notes: Sequence[str],
    tables: Sequence[Table],
    pictures: Sequence[Picture],
    images: Mapping[str, bytes],
) -> str:
    """Return the page; `images` holds each picture's PNG by its name."""
    told = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>\n" for k, v in facts.items())
    listed = "".join(f"<li>{escape(note)}</li>\n" for note in notes)
    *first, runs = tables
    body = [f"<h1>{escape(name)}</h1>\n<dl>\n{told}</dl>\n<ul>\n{listed}</ul>"]
    body += [_html_table(table) for table in first]
    body += [_html_figure(picture, images[picture.name]) for picture in pictures]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(name)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n"
        + "\n".join([*body, _html_table(runs)])
        + "\n</body>\n</html>\n"
    )


def _html_table(table: Table) -> str:
    is_text = _text_columns(table)

    def row(tag: str, texts: Sequence[str]) -> str:
        kinds = (' class="text"' if text else "" for text in is_text)
        cells = zip(texts, kinds, strict=True)
        return "<tr>" + "".join(f"<{tag}{kind}>{escape(t)}</{tag}>" for t, kind in cells) + "</tr>"

    rows = "\n".join(row("td", [cell_text(cell) for cell in cells]) for cells in table.rows)
    return (
        f"<h2>{escape(table.title)}</h2>\n"
        f'<p class="caption">{escape(table.caption)}</p>\n<div class="wide"><table>\n<thead>'
        f"{row('th', table.columns)}</thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def _html_figure(picture: Picture, png: bytes) -> str:
    data = base64.b64encode(png).decode()
    width = round(picture.figure.get_figwidth() * CSS_PIXELS)
    return (
        f"<h2>{escape(picture.title)}</h2>\n<figure>\n"
        f'<img alt="{escape(picture.title)}" src="data:image/png;base64,{data}" '
        f'width="{width}">\n'
        f"<figcaption>{escape(picture.caption)}</figcaption>\n</figure>"
    )


def markdown_page(
    name: str,
    facts: Mapping[str, str],
    notes: Sequence[str],
    tables: Sequence[Table],
    pictures: Sequence[Picture],
) -> str:
    """Return the same in Markdown, its figures beside it under `figures/`."""
    lines = [f"# {_plain(name)}", ""]
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
    """Return a text that Markdown, and the HTML that it allows, shows as it is, on one line."""
    return re.sub(r"([\\|`*\[\]])", r"\\\1", escape(" ".join(text.split()), quote=False))


def _text_columns(table: Table) -> list[bool]:
    """Return which columns hold words, which stand to the left."""

    def is_words(cell: Cell) -> bool:
        return isinstance(cell, str)

    return [any(is_words(row[i]) for row in table.rows) for i in range(len(table.columns))]
