"""Published numbers are written again into their places when rows came, and nothing else is."""

import csv
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.published import Published
from benchmarks.recompute import check_study
from benchmarks.refresh import refresh
from spire_core.errors import DataError
from sweeps.report.rows import rows_text

QUOTE = "| SPIRE | 0.50 ± 0.10 | 0.50 |"


def study(docs: Path, page: str, lines: list[Published]) -> Path:
    """Write a study of two seeds, in which SPIRE's KID is 0.4 and 0.8, into docs/results/mine."""
    folder = docs / "results" / "mine"
    folder.mkdir(parents=True)
    (docs / "page.md").write_text(page)
    head = {"method": "spire", "clients": "new", "federation.num_new_clients": 2}
    rows = [
        head | {"run_id": f"r{seed}", "seed": seed, "partition_hash": f"p{seed}", "client_id": one}
        for seed in (0, 1)
        for one in (0, 1)
    ]
    for i, row in enumerate(rows):
        row |= {"kid_after": (0.2, 0.6, 0.7, 0.9)[i], "true_accuracy": (0.5, 0.9)[i % 2]}
    (folder / "rows.csv").write_text(rows_text(rows))
    with (folder / "published.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(asdict(lines[0])))
        writer.writeheader()
        writer.writerows(map(asdict, lines))
    return folder


def line(printed: str, statistic: str = "mean", **more: str) -> Published:
    values = {"measure": "kid_after", "method": "spire"} | more
    return Published("page.md", QUOTE, printed, statistic, **values)


def test_numbers_change_in_their_places_and_agree_then(tmp_path: Path) -> None:
    """Of two equal numbers each has its own value, and a quote is found across line ends."""
    lines = [line("0.50"), line("0.10", "half"), line("0.50", where="true_accuracy>=0.5; seed=1")]
    lines += [Published("page.md", "(0.500)", "0.500", "min", "kid_after", "spire")]
    folder = study(tmp_path, f"0.50\n{QUOTE.replace(' 0.10', chr(10) + '0.10')} (0.500)", lines)
    assert refresh(folder, tmp_path) == 4
    assert (tmp_path / "page.md").read_text() == "0.50\n| SPIRE | 0.60 ±\n2.54 | 0.80 | (0.400)"
    assert check_study(folder, tmp_path) == (0, 4, [])
    assert refresh(folder, tmp_path) == 0


def test_lines_of_a_quote_need_not_be_neighbours(tmp_path: Path) -> None:
    lines = [line("0.50"), line("0.10", "half"), line("0.50", where="true_accuracy>=0.5; seed=1")]
    other = Published("page.md", "(0.500)", "0.500", "min", "kid_after", "spire")
    folder = study(tmp_path, f"{QUOTE} (0.500)", [lines[0], other, *lines[1:]])
    assert refresh(folder, tmp_path) == 4
    assert check_study(folder, tmp_path) == (0, 4, [])


def test_numbers_that_nobody_knows_yet_are_written(tmp_path: Path) -> None:
    page = "| SPIRE | ?.??? ± ?.?? | 0.50 |"
    lines = [line("?.???"), line("?.??", "half"), line("0.50")]
    folder = study(tmp_path, page, [replace(one, quote=page) for one in lines])
    _, _, wrong = check_study(folder, tmp_path)
    assert any("page.md says ?.??? in" in mistake for mistake in wrong)
    assert refresh(folder, tmp_path) == 3
    assert (tmp_path / "page.md").read_text() == "| SPIRE | 0.600 ± 2.54 | 0.60 |"
    assert check_study(folder, tmp_path)[2] == []


def test_a_run_that_lacks_a_client_changes_nothing(tmp_path: Path) -> None:
    folder = study(tmp_path, QUOTE, [line("0.50"), line("0.10", "half"), line("0.50")])
    rows = (folder / "rows.csv").read_text().splitlines(keepends=True)
    (folder / "rows.csv").write_text("".join(rows[:-1]))
    for read in (refresh, check_study):
        with pytest.raises(DataError, match=r"expected rows of 2 new clients of run r1 in .*got 1"):
            read(folder, tmp_path)
    assert (tmp_path / "page.md").read_text() == QUOTE


def test_clients_can_be_chosen_by_bounds_of_their_scores(tmp_path: Path) -> None:
    wheres = ("true_accuracy>=0.6", "true_accuracy<0.6;seed=0", "true_accuracy >= 0.9")
    lines = [line("0.50", where=wheres[0]), line("0.10", where=wheres[1])]
    folder = study(tmp_path, QUOTE, [*lines, line("0.50", where=wheres[2])])
    refresh(folder, tmp_path)
    assert (tmp_path / "page.md").read_text() == "| SPIRE | 0.75 ± 0.20 | 0.75 |"


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([line("0.10"), line("0.50"), line("0.50")], "0.50 in its place in .*order its lines"),
        ([line("0.5")], "expected 0.5 in its place"),  # part of a number is none
        ([line("0.50", where="seed!0")], "conditions such as seed=0"),
        ([Published("page.md", "no", "0.50", "mean", "kid_after", "spire")], "'no' on its page"),
        (
            [
                line("0.10", "half"),
                Published("page.md", "0.10", "0.10", "min", "kid_after", "spire"),
            ],
            "one number in a place, got 0.40 and 2.54",
        ),
    ],
)
def test_lines_that_do_not_fit_their_page_change_nothing(
    lines: list[Published], words: str, tmp_path: Path
) -> None:
    folder = study(tmp_path, QUOTE, lines)
    before = (folder / "published.csv").read_text()
    with pytest.raises(DataError, match=words):
        refresh(folder, tmp_path)
    assert (tmp_path / "page.md").read_text() == QUOTE
    assert (folder / "published.csv").read_text() == before
