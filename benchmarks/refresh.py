"""Writes a study's published numbers again, into its pages and `published.csv`, when rows came.

    python -m benchmarks.refresh docs/results/STUDY

Only numbers that `published.csv` lists change, each in its place in its quote; the lines of a quote
are in the order of its numbers. A number that nobody knows yet stands there and on the page as
?.??, with a ? for each decimal. Words that a number no longer bears out are yours to change.
The part of the study's `README.md` that `spire report` writes is written again, too.
"""

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.ended import USER_ERROR, ended
from benchmarks.published import Published, read_rows, study_rows
from benchmarks.published_values import published_values
from benchmarks.quotes import Edit, edited, edits_of
from benchmarks.recompute import DOCS, families_of, findings_of, groups_of
from sweeps.report.primary import primary_table
from sweeps.report.study_page import with_section


def refreshed(
    page: str, lines: Sequence[Published], values: Sequence[float]
) -> tuple[str, list[Published]]:
    """Return a page's text with these lines' values, and the lines as they are then."""
    everywhere, of_quotes = set[Edit](), dict[str, list[tuple[str, str]]]()
    printed = [one.rounded(value) for one, value in zip(lines, values, strict=True)]
    for one, new in zip(lines, printed, strict=True):
        of_quotes.setdefault(one.quote, []).append((one.printed, new))
    quotes = dict[str, str]()
    for quote, numbers in of_quotes.items():
        everywhere |= set(edits_of(quote, numbers, page))
        quotes[quote] = edited(quote, list(edits_of(quote, numbers, quote)))
    pairs = zip(lines, printed, strict=True)
    found = [replace(one, quote=quotes[one.quote], printed=new) for one, new in pairs]
    return edited(page, sorted(everywhere)), found


def refresh(folder: Path, docs: Path = DOCS) -> int:
    """Write a study's pages and `published.csv` again; return how many numbers changed."""
    file = folder / "published.csv"
    lines = [Published(**row) for row in read_rows(file)] if file.is_file() else []
    rows = study_rows(folder)
    compared = findings_of(folder.name, groups_of(rows))
    values = published_values(rows, lines, families_of(compared))
    places = range(len(lines))
    pages, found = dict[Path, str](), list(lines)
    for name in dict.fromkeys(one.page for one in lines):
        own = [i for i in places if lines[i].page == name]
        text = (docs / name).read_text(encoding="utf-8")
        on_page = ([lines[i] for i in own], [values[i] for i in own])
        pages[(docs / name).resolve()], new = refreshed(text, *on_page)
        for i, one in zip(own, new, strict=True):
            found[i] = one
    own_page = (folder / "README.md").resolve()
    if own_page.is_file():
        text = pages.get(own_page) or own_page.read_text(encoding="utf-8")
        pages[own_page] = with_section(text, rows, primary_table(compared), own_page)
    for path, text in pages.items():  # nothing is written unless all pages could be
        path.write_text(text, encoding="utf-8")
    if lines:
        table = io.StringIO()
        writer = csv.DictWriter(table, list(asdict(lines[0])), lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, found))
        file.write_text(table.getvalue(), encoding="utf-8")
    return sum(old.printed != new.printed for old, new in zip(lines, found, strict=True))


def main(folders: Sequence[str]) -> int:
    """Refresh these studies, and return the exit code."""
    if not folders:
        print(__doc__, file=sys.stderr)
        return USER_ERROR
    for folder in folders:
        print(f"{folder}: {refresh(Path(folder))} numbers changed")
    return 0


if __name__ == "__main__":
    sys.exit(ended(lambda: main(sys.argv[1:])))
