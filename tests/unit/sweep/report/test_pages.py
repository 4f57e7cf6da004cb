"""The pages show every text as it was written, whoever wrote it."""

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.figures.style import blank_figure
from sweeps.report.contents import Origin, Report, Snapshot
from sweeps.report.figures import Picture
from sweeps.report.pages import html_page, markdown_page, sweep_note
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


def report(text: str) -> Report:
    """A report all of whose texts are `text`."""
    table = Table("t", text, text, (text, "n"), ((text, 1),))
    picture = Picture("p", text, text, blank_figure(2, 1))
    shot = Snapshot("s", text, text, b"\x89PNG")
    origin = Origin(text, text, text, text)
    shown = ([text], {text: text}, [text], [table] * 3, [picture] * 2, [shot], [shot])
    return Report(text, Path(), None, *shown, origin, {text: text})


def html(report: Report) -> str:
    return html_page(report, {"p": "<svg/>"})


@pytest.mark.parametrize("page_of", [html, markdown_page])
def test_no_text_is_taken_for_html(page_of: Callable[[Report], str]) -> None:
    page = page_of(report(EVIL))
    assert "<script" not in page
    assert "onerror" in page


def test_each_text_is_on_the_page_as_it_was_written() -> None:
    shown = Shown(html(report(EVIL)))
    # Two titles; the question, the date, the command twice, the sweep's file; an answer, a fact
    # and a word with their names, a note; three tables of four; two figures of three, two pictures
    # of runs.
    assert shown.text.count(EVIL) == 2 + 5 + 6 + 3 * 4 + 2 * 3 + 2 * 3
    assert "script" not in shown.tags


def test_runs_are_linked_and_nothing_else_is() -> None:
    columns, link = ("run", "id", "KID"), "http://server/#/a?b&c"
    runs = Table("runs", "Runs", "", columns, (("01234567", "01234567", 1.0), ("b", "b", 2.0)))
    origin = Origin(links={"0123456789": link, "parent": f"{link}=1"})
    tables = [runs, Table("t", "", "", ("name",), (("01234567",),))]
    whole = replace(report("text"), parent_id="parent", tables=tables, origin=origin)
    found = re.findall(r'<a href="([^"]*)">([^<]*)</a>', html(whole))
    escaped = link.replace("&", "&amp;")
    assert found == [(f"{escaped}=1", "in MLflow"), ("#runs", "its runs"), (escaped, "01234567")]
    head = '<p class="when">'
    assert f"{head}<a href" in html(whole)  # without a date, as of rows alone
    assert f"{head}3 May &middot; <a href" in html(
        replace(whole, origin=replace(origin, when="3 May"))
    )


def test_the_first_screen_has_eight_answers_and_the_others_are_folded() -> None:
    whole = replace(report("text"), answers=[f"answer {i}." for i in range(11)])
    page, note = html(whole), sweep_note(whole)
    shown, folded = page.split("<details><summary>More answers: 3</summary>")
    assert re.findall(r"answer \d+", shown) == [f"answer {i}" for i in range(8)]
    assert re.findall(r"answer \d+", folded) == [f"answer {i}" for i in range(8, 11)]
    assert ("answer 7." in note, "answer 8." in note) == (True, False)
    assert "more answers in the report: 3" in note
    assert "ore answers" not in html(report("text")) + sweep_note(report("text"))
    assert markdown_page(whole).count("answer ") == 11


def test_what_a_report_lacks_leaves_no_empty_place() -> None:
    table = Table("t", "title", "", ("a",), ((1,),))
    bare = Report("bare", Path(), None, [], {}, [], [table, table], [])
    page = html(bare)
    assert not {"img", "b", "a"} & Shown(page).tags
    assert "What a new client draws" not in page
    assert '<dl class="words">' not in page
    assert "Run it again" not in page
    assert "![" not in markdown_page(bare)
