"""Numbers in their quotes: where they stand on a page, and which of a page nobody lists."""

import pytest

from benchmarks.published import Published, read_rows
from benchmarks.quotes import edits_of, unlisted
from benchmarks.recompute import DOCS, studies
from benchmarks.refresh import refreshed
from spire_core.errors import DataError

COMMITTED = [folder.name for folder in studies() if (folder / "published.csv").is_file()]


def line(quote: str, printed: str) -> Published:
    return Published("page.md", quote, printed, "mean", "kid_after", "spire")


def test_a_number_is_not_found_within_another() -> None:
    (edit,) = edits_of("from -0.50 to 0.50", [("0.50", "0.61")], "from -0.50 to 0.50")
    assert edit == (14, 18, "0.61")
    (edit,) = edits_of("from -0.50 to 0.50", [("-0.50", "0.61")], "from -0.50 to 0.50")
    assert edit == (5, 10, "0.61")
    assert line("", "0.00").rounded(-0.001) == "0.00"
    assert line("", "0.00").rounded(-0.006) == "-0.01"
    assert line("", "2e-05").rounded(0.0000123) == "1e-05"
    assert line("", "2.0e-05").rounded(0.0000123) == "1.2e-05"
    assert unlisted("Holm 1e-05, p 1.2e-05", [line("Holm 1e-05", "1e-05")]) == ["1.2e-05"]


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ("KID is 0.71, `lr=0.02`, [a](v1.5/x.md) 3.4e-5 and 1e-3", ["0.71", "3.4e-5", "1e-3"]),
        ("arXiv 2506.12303 with Dirichlet(0.1) at 97e8878 and 584c3d3", []),
        ("It's ` 0.71\nand `0.82`", ["0.71"]),  # code ends with its line
        ("[a](see 0.71) arXiv 0.5", ["0.71", "0.5"]),
        ("of .5 and 12 and 3 %", [".5"]),
    ],
)
def test_which_numbers_are_results(page: str, found: list[str]) -> None:
    assert unlisted(page, []) == found


def test_a_line_is_for_one_number_in_one_place() -> None:
    page = "KID 0.50 before and 0.50 after, then\n0.50."
    assert unlisted(page, [line("KID 0.50 before and 0.50 after", "0.50")]) == ["0.50"] * 2
    assert unlisted(page, [line("KID 0.50 before and 0.50 after", "0.50")] * 2) == ["0.50"]
    assert unlisted(page, [line("KID 0.50", "0.50"), line("after, then 0.50.", "0.50")]) == ["0.50"]
    with pytest.raises(DataError, match=r"'0\.50' once on its page, got 3"):
        unlisted(page, [line("0.50", "0.50")])


@pytest.mark.parametrize("study", COMMITTED)
def test_committed_lines_are_in_the_order_of_their_quotes(study: str) -> None:
    """With the numbers as they stand nothing changes, so that new ones find their places."""
    lines = [Published(**row) for row in read_rows(DOCS / "results" / study / "published.csv")]
    for name in dict.fromkeys(one.page for one in lines):
        own, text = [one for one in lines if one.page == name], (DOCS / name).read_text()
        assert refreshed(text, own, [float(one.printed) for one in own]) == (text, own)
