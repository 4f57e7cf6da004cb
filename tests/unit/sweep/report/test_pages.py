"""The pages show every text as it was written, whoever wrote it."""

from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from pipeline.figures.style import blank_figure
from sweeps.report.figures import Picture
from sweeps.report.pages import html_page, markdown_page
from sweeps.report.tables import Table

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;"


class Shown(HTMLParser):
    """The tags of a page, with the texts and the alternative texts that it shows."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.text += "".join(value or "" for name, value in attrs if name == "alt")
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def html(name: str, table: Table, picture: Picture) -> str:
    images = {picture.name: b"\x89PNG"}
    return html_page(name, [name], {name: name}, [name], [table, table], [picture], images)


def markdown(name: str, table: Table, picture: Picture) -> str:
    return markdown_page(name, [name], {name: name}, [name], [table, table], [picture])


@pytest.mark.parametrize("page_of", [html, markdown])
def test_no_text_is_taken_for_html(page_of: Callable[[str, Table, Picture], str]) -> None:
    table = Table("t", EVIL, EVIL, (EVIL, "n"), ((EVIL, 1),))
    picture = Picture("p", EVIL, EVIL, blank_figure(2, 1))
    page = page_of(EVIL, table, picture)
    assert "<script" not in page
    assert "onerror" in page


def test_each_text_is_on_the_page_as_it_was_written() -> None:
    table = Table("t", EVIL, EVIL, (EVIL, "n"), ((EVIL, 1),))
    shown = Shown(html(EVIL, table, Picture("p", EVIL, EVIL, blank_figure(2, 1))))
    # Two titles, an answer, a fact with its name, a note; two tables of four; a figure's three.
    assert shown.text.count(EVIL) == 6 + 2 * 4 + 3
    assert "script" not in shown.tags
