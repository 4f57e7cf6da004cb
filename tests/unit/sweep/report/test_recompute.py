"""Published numbers are worked out again from committed rows, and a wrong one is found."""

import csv
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.published import Published
from benchmarks.published_values import published_values
from benchmarks.recompute import (
    check_study,
    differing_cells,
    groups_of,
    main,
    studies,
    tables_of,
    without_rows,
    wrong_line,
)
from spire_core.errors import DataError
from sweeps.report.rows import rows_text
from sweeps.report.stats import estimate
from sweeps.report.tables import Table

FACTORS = (2.0, 2.2, 1.8)


def row(method: str, seed: int, client: int, kid: float, images: int = 16) -> dict[str, str]:
    tags = dict.fromkeys(("config_fingerprint", "state_fingerprint", "git_revision"), "f")
    tags |= {"partition_hash": f"p{seed}", "extractor": "mnist-cnn"}
    head = {"run_id": f"{method}{seed}{images}", "method": method, "seed": seed}
    head |= {"adapt.num_images": images, "federation.num_new_clients": 2}
    head |= {"clients": "new", "client_id": client}
    values = head | {"kid_before": 4.0, "kid_after": kid, "tv_after": 0.25} | tags
    return {key: str(value) for key, value in values.items()}


ROWS = [
    row(method, seed, client, factor * (0.5 + 0.2 * client))
    for seed, theirs in enumerate(FACTORS)
    for method, factor in (("spire", 1.0), ("fedavg_ft", theirs))
    for client in (0, 1)
]  # SPIRE's runs have 0.6, and the other's so many times that
LOGS = [math.log(factor) for factor in FACTORS]


def line(statistic: str, printed: str = "1", **more: str) -> Published:
    values = {"measure": "kid_after", "method": "fedavg_ft", "against": "spire"} | more
    return Published("page.md", f"the number {printed}.", printed, statistic, **values)


@pytest.mark.parametrize(
    ("one", "value"),
    [
        (line("mean", method="spire"), 0.6),
        (line("half"), 4.302653 * 0.12 / math.sqrt(3)),
        (line("min"), 0.6 * 1.8),
        (line("max"), 0.6 * 2.2),
        (line("difference"), 0.6),
        (line("ratio"), math.exp(sum(LOGS) / 3)),
        (line("pairs"), 3),
        (line("mean", measure="tv_after"), 0.25),
    ],
)
def test_statistics_by_hand(one: Published, value: float) -> None:
    assert published_values(ROWS, [one]) == [pytest.approx(value, rel=1e-6)]


def test_covered_clients_are_compared_with_the_others_of_their_run() -> None:
    """Client 0 is covered, so that its KID by client 1's is 0.5 / 0.7 for both methods."""
    rows = [row | {"hull_tv": "0.3" if row["client_id"] == "1" else "0.05"} for row in ROWS]
    rows = [row | {"kid_after": "9.0"} if row["run_id"] == "fedavg_ft216" else row for row in rows]
    lines = [line("mean", measure="covered_ratio", method="spire")]
    lines += [line(name, measure="covered_ratio") for name in ("ratio", "pairs")]
    lines += [line("p", measure="covered_ratio", where="hull_tv<0.1", against="fedavg_ft")]
    mean, ratio, pairs = published_values(rows, lines[:3])
    assert mean == pytest.approx(0.5 / 0.7)
    assert ratio == pytest.approx((0.7 / 0.5) ** (1 / 3))  # the third pair's is 1
    assert pairs == 3
    below = [row | {"kid_after": "-0.1"} if row["hull_tv"] == "0.3" else row for row in rows]
    for one in lines[:3]:
        with pytest.raises(DataError, match="expected a KID above zero of clients that"):
            published_values(below, [one])
    with pytest.raises(DataError, match=r"expected runs of fedavg_ft where hull_tv<0.1, got none"):
        published_values(rows, lines[3:])


def test_an_excess_is_the_share_less_its_own_chance() -> None:
    """Chance differs by method, so that a difference of shares would be another number."""
    near = {"spire": {"nn_share": "0.25", "nn_chance": "0.25"}}
    near["fedavg_ft"] = {"nn_share": "0.75", "nn_chance": "0.625"}
    rows = [row | near[row["method"]] for row in ROWS]
    lines = [line(name, measure="nn_excess") for name in ("mean", "difference")]
    assert published_values(rows, lines) == [0.125, 0.125]
    rows[0] |= {"nn_chance": ""}
    with pytest.raises(DataError, match=r"expected nn_excess of each client of run \w+, got it of"):
        published_values(rows, lines)


def test_tests_are_those_of_a_report() -> None:
    """The ends of the interval enclose the ratio; Holm doubles the smaller of two p-values."""
    lines = [line(name) for name in ("low", "ratio", "high", "p", "holm")]
    lines += [line("holm", measure="tv_after"), line("equivalence", margin="2.0")]
    low, ratio, high, p, corrected, other, equivalence = published_values(ROWS, lines)
    assert math.log(high / ratio) == pytest.approx(math.log(ratio / low))
    assert low > 1
    assert p < 0.05
    assert (corrected, other) == (pytest.approx(2 * p), 1.0)
    assert equivalence < 0.05
    both = [line("equivalence", margin="2.0"), line("equivalence", margin="9.0")]
    larger, smaller = published_values(ROWS, both)
    alone = published_values(ROWS, [replace(one, family=one.margin) for one in both])
    assert alone == [pytest.approx(equivalence), pytest.approx(smaller / 2)]
    assert larger == pytest.approx(max(equivalence, smaller))


def test_one_test_on_two_pages_counts_once_and_differences_count_with_ratios() -> None:
    [p], [of_difference] = (published_values(ROWS, [line(name)]) for name in ("p", "difference_p"))
    smaller, larger = sorted((p, of_difference))
    expected = {smaller: 2 * smaller, larger: max(2 * smaller, larger)}
    first = line("holm", where="adapt.num_images=16;eval.num_images=128")
    again = replace(first, page="other.md", quote="1 elsewhere", printed="1.0", clients="new")
    again = replace(again, where=" eval.num_images = 128.0 ; adapt.num_images=16", margin="0.1")
    swapped = replace(again, method="spire", against="fedavg_ft", against_where=first.where)
    pages = [first, again, swapped, replace(first, statistic="difference_holm")]
    rows = [row | {"eval.num_images": "128"} for row in ROWS]
    found = [expected[p]] * 3 + [expected[of_difference]]
    assert p != of_difference
    assert published_values(rows, pages) == pytest.approx(found)


def test_comparisons_of_a_family_that_nobody_quotes_count() -> None:
    """Each in its order: one that has not run is the last, and smaller ones come first."""
    [p], one = published_values(ROWS, [line("p")]), line("holm", family="a")
    both = [one, replace(one, family="b")]
    absent = {False: [p, None, None, None], True: []}
    smaller = {False: [p / 30, p, p / 15], True: []}
    found = published_values(ROWS, both, {"a": absent, "b": smaller})
    assert found == pytest.approx([4 * p, p])
    for families, words in (
        ({"b": smaller}, "a family out of 'b', got 'a'"),
        ({"a": {False: [2 * p, None], True: [p]}}, "a primary comparison of the family 'a', got"),
    ):
        with pytest.raises(DataError, match=words):
            published_values(ROWS, [one], families)
    blank = replace(one, family="")
    assert published_values(ROWS, [blank], {"": absent}) == pytest.approx([4 * p])
    with pytest.raises(DataError, match="a family out of 'a', got ''"):
        published_values(ROWS, [blank], {"a": absent})


def test_equivalence_is_corrected_among_the_equivalences_of_its_family() -> None:
    one = line("equivalence", margin="2.0", family="a")
    [p] = published_values(ROWS, [one])
    [found] = published_values(ROWS, [one], {"a": {False: [0.5] * 9, True: [0.9, p, None]}})
    assert found == pytest.approx(3 * p)


def test_a_method_is_compared_with_itself_at_other_settings() -> None:
    more = [row("spire", seed, 0, 0.4 + 0.1 * seed, images=64) for seed in range(3)]
    own = {"method": "spire", "where": "adapt.num_images=16"}
    lines = [line("difference", against_where="adapt.num_images=64", **own), line("pairs", **own)]
    assert published_values([*ROWS, *more], lines) == [pytest.approx(0.1), 3]


def test_clients_of_one_kind_are_compared_with_those_of_another() -> None:
    """The other's clients after fine-tuning, with SPIRE's as the rounds left them."""
    kinds = {"fedavg_ft": "tuned", "spire": "pretraining"}
    rows = [own | {"clients": kinds[own["method"]]} for own in ROWS]
    one = line("ratio", clients="tuned", against_clients="pretraining")
    assert published_values(rows, [one]) == [pytest.approx(math.exp(sum(LOGS) / 3))]
    with pytest.raises(DataError, match="expected runs of spire"):
        published_values(rows, [replace(one, against_clients="")])


def test_one_score_is_compared_with_another_of_the_same_runs() -> None:
    """KID after, by that before: twice as high for each of two clients on three seeds."""
    rows = [own | {"kid_before": str(float(own["kid_after"]) / 2)} for own in ROWS]
    itself = {"method": "spire", "against": "spire", "against_measure": "kid_before"}
    lines = [line(name, **itself) for name in ("ratio", "pairs", "num_above")]
    assert published_values(rows, lines) == [pytest.approx(2.0), 3, 6]
    assert replace(lines[0], against_measure="").test != lines[0].test


def test_clients_with_a_higher_score_are_counted_one_by_one() -> None:
    """Two clients on three seeds: all six of the other method are higher, then all but one."""
    assert published_values(ROWS, [line("num_above")]) == [6]
    lower = [own | {"kid_after": "0.1"} if own is ROWS[2] else own for own in ROWS]
    assert ROWS[2]["method"] == "fedavg_ft"
    assert published_values(lower, [line("num_above")]) == [5]
    with pytest.raises(DataError, match="expected kid_before2 of both methods of each new client"):
        published_values(ROWS, [line("num_above", measure="kid_before2")])


def test_lines_that_cannot_be_worked_out_are_named() -> None:
    two = [*ROWS, row("spire", 0, 0, 1.0, images=64)]
    for rows, one, words in (
        (two, line("mean", method="spire"), "one run of spire on seed 0 .* name more settings"),
        (ROWS, line("mean", method="local"), "runs of local where anything, got none"),
        (ROWS, line("mean", where="tau=3"), "columns of the rows, got 'tau'"),
        (ROWS, line("median"), "a statistic out of mean, half, .* got 'median'"),
        (ROWS[:4], line("half"), "several seeds for an interval, got one"),
        ([*ROWS[:-1], {**ROWS[-1], "kid_after": ""}], line("mean"), "of each client of run .*: a"),
        ([own | {"kid_after": "-0.1"} for own in ROWS], line("ratio"), "above zero for a ratio"),
    ):
        with pytest.raises(DataError, match=words):
            published_values(rows, [one])
    chosen = line("mean", method="spire", where="adapt.num_images=16")
    assert published_values(two, [chosen]) == [pytest.approx(0.6)]


def test_a_number_is_compared_to_its_last_printed_digit(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("Before that,\nthe number 0.62.\n")
    assert wrong_line(line("mean", "0.62"), 0.6249, tmp_path) is None
    assert "does not have 0.6" in str(
        wrong_line(replace(line("mean", "0.62"), printed="0.6"), 0.6, tmp_path)
    )
    assert "says 0.62 in" in (wrong_line(line("mean", "0.62"), 0.6251, tmp_path) or "")
    assert "does not have 'the number 0.63.'" in (
        wrong_line(line("mean", "0.63"), 0.63, tmp_path) or ""
    )
    other = Published("page.md", "the number", "0.62", "mean", "kid_after", "spire")
    assert wrong_line(other, 0.62, tmp_path) == "'the number' does not have 0.62"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study whose table and page were written by hand."""
    folder = tmp_path / "results" / "study"
    (folder / "tables").mkdir(parents=True)
    (folder / "rows.csv").write_text(rows_text(ROWS))
    halves = [repr(4.302652729749464 * s / math.sqrt(3)) for s in (0.12, 0.14, 0.03)]
    half, of_worst, of_ratio = halves
    (folder / "tables" / "new_clients.csv").write_text(
        "method,n,KID before,KID before: half interval,KID before: n,"
        "KID after,KID after: half interval,KID after: n,"
        '"KID after, worst client","KID after, worst client: half interval",'
        '"KID after, worst client: n",after / before,after / before: half interval,'
        "after / before: n,TV after,TV after: half interval,TV after: n\n"
        "spire,3,4.0,0.0,3,0.6,0.0,3,0.7,0.0,3,0.15,0.0,3,0.25,0.0,3\n"
        f"fedavg_ft,3,4.0,0.0,3,1.2,{half},3,1.4,{of_worst},3,0.3,{of_ratio},3,0.25,0.0,3\n"
    )
    (tmp_path / "results.md").write_text("SPIRE has 0.600, **fine-tuning** 1.20.\n")
    with (folder / "published.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["page", "quote", "printed", "statistic", "measure", "method"])
        writer.writerow(["results.md", "SPIRE has 0.600", "0.600", "mean", "kid_after", "spire"])
        quote = "**fine-tuning** 1.20"
        writer.writerow(["results.md", quote, "1.20", "mean", "kid_after", "fedavg_ft"])
    return folder


def test_a_study_that_is_right_agrees(study: Path, tmp_path: Path) -> None:
    assert check_study(study, tmp_path) == (32, 2, [])


def test_a_table_that_rows_do_not_make_is_found(study: Path, tmp_path: Path) -> None:
    for name in ("coverage", "epochs", "plane"):  # the second is of curves, which no rows have
        (study / "tables" / f"{name}.csv").write_text("method\nspire\n")
    expected = [f"{name}.csv: the rows make no such table" for name in ("coverage", "plane")]
    assert check_study(study, tmp_path)[2] == expected


def test_a_plane_follows_from_rows_and_takes_the_place_of_settings_one_by_one() -> None:
    rows = [
        one
        | {"federation.num_rounds": rounds, "federation.num_clients": clients}
        | {"run_id": f"{one['run_id']}-{rounds}-{clients}"}
        for rounds in ("10", "20")
        for clients in ("8", "24")
        for one in ROWS
    ]
    tables = {table.name: table for table in tables_of(rows, groups_of(rows), [])}
    assert len(tables["plane"].rows) == 4
    assert "by_setting" not in tables


def test_a_column_that_one_side_lacks_is_found_unless_stores_alone_know_it(tmp_path: Path) -> None:
    found = Table("pretraining", "", "", ("method", "TV"), (("spire", estimate([0.5, 0.5])),))
    path, head = tmp_path / "pretraining.csv", "method,TV,TV: half interval,TV: n"
    path.write_text(f"{head},best round,best round: n\nspire,0.5,0,2,3,2\n")
    assert differing_cells(found, path) == (3, [])
    path.write_text(f"{head.replace('TV: n', 'MB sent in total')}\nspire,0.5,0,2\n")
    assert differing_cells(found, path)[1] == [
        "pretraining.csv: the rows make no column 'MB sent in total'",
        "pretraining.csv: no column 'TV: n', which the rows make",
    ]


def test_a_tiny_p_value_is_compared_by_its_own_size(tmp_path: Path) -> None:
    path = tmp_path / "primary.csv"
    for column, is_wrong in (("Holm", True), ("effect", False)):
        found = Table("primary", "", "", (column,), ((2e-11,),))
        path.write_text(f"{column}\n1e-11\n")
        assert bool(differing_cells(found, path)[1]) == is_wrong


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("tables/new_clients.csv", ",0.6,", ",0.61,", "line 2, KID after: '0.61', '0.6"),
        ("rows.csv", ",0.7,", ",0.71,", "line 2, KID after: '0.6', '0.60"),
        ("published.csv", "0.600,mean", "0.600,half", "says 0.600 in"),
        ("../../results.md", "0.600", "0.601", "does not have 'SPIRE has 0.600'"),
        ("tables/new_clients.csv", "spire,3", "spire,4", "line 2, n: '4', '3'"),
    ],
)
def test_a_wrong_digit_anywhere_is_found(
    study: Path, tmp_path: Path, file: str, old: str, new: str, words: str
) -> None:
    text = (study / file).read_text()
    assert old in text
    (study / file).write_text(text.replace(old, new, 1))
    _, _, wrong = check_study(study, tmp_path)
    assert any(words in mistake for mistake in wrong)


def test_a_number_without_rows_is_found(tmp_path: Path) -> None:
    """Also beside a listed one, and where the same number stands once more; code is no result."""
    for name in ("study", "without_rows"):
        (tmp_path / "results" / name).mkdir(parents=True)
    (tmp_path / "results" / "study" / "rows.csv").write_text(rows_text(ROWS))
    page = "At `lr=0.02` SPIRE has 0.60 and [fonts](v1.5/x.md) 0.71; arXiv 2506.12303 has\n0.60.\n"
    (tmp_path / "page.md").write_text(page)
    assert without_rows("page.md", tmp_path) == ["0.60", "0.71", "0.60"]
    listed = Published("page.md", "SPIRE has 0.60", "0.60", "mean", "kid", "m")
    unchecked = replace(listed, quote="0.71", printed="0.71")
    for name, one in (("study", listed), ("without_rows", unchecked)):
        with (tmp_path / "results" / name / "published.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(asdict(one)))
            writer.writeheader()
            writer.writerow(asdict(one))
    assert without_rows("page.md", tmp_path) == ["0.71", "0.60"]


def test_a_study_without_anything_to_compare_is_no_proof(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(rows_text(ROWS))
    with pytest.raises(DataError, match=r"tables or published numbers in .*, got none"):
        check_study(tmp_path)


def test_all_published_numbers_follow_from_committed_rows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert studies(), "no study has committed rows"
    assert main([]) == 0, capsys.readouterr().out
