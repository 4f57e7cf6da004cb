"""The figures of docs/results.md: the first names each comparison, both are of their rows."""

import math
from dataclasses import asdict, replace
from itertools import product

import pytest

from benchmarks.fit_prices import WORLDS, fits
from benchmarks.published import Published, agree, read_rows, study_rows
from benchmarks.published_values import published_values
from benchmarks.verdicts import (
    BARS,
    CLIENTS,
    FITS,
    FT,
    LENGTHS,
    NAMES,
    bars_of,
    covered_clients,
    drawn,
    is_shown,
    lengths,
    name_of,
    studies,
    worded,
)
from spire_core.errors import DataError
from sweeps.design.load import load_sweep
from sweeps.primary import Primary, primaries
from sweeps.report.primary import Finding
from sweeps.report.stats import Estimate


@pytest.mark.parametrize("study", NAMES)
def test_each_comparison_has_one_name_and_each_name_a_comparison(study: str) -> None:
    made = [Finding(one, (), None) for one in primaries(load_sweep(study).primary)]
    made = [one for one in made if is_shown(one)]
    named = [name_of(study, one) for one in made]
    assert len(made) > 0
    assert sorted(named) == sorted(NAMES[study].values())


def test_the_committed_figure_is_of_the_committed_rows() -> None:
    bars = [asdict(bar) for study in studies() for bar in worded(bars_of(study))]
    committed = read_rows(BARS)
    assert [row.keys() for row in committed] == [bar.keys() for bar in bars]
    pairs = [(row[k], v) for row, bar in zip(committed, bars, strict=True) for k, v in bar.items()]
    assert [pair for pair in pairs if not agree(pair[0], str(pair[1]))] == []


def test_the_clients_of_the_second_figure_are_those_of_the_rows() -> None:
    points = [asdict(point) for point in covered_clients().points]
    committed = read_rows(CLIENTS)
    assert len(points) == 48
    assert len(committed) == 48
    for row, point in zip(committed, points, strict=True):
        assert all(agree(row[key], str(value)) for key, value in point.items())


def test_the_lengths_of_the_third_figure_are_those_of_the_rows() -> None:
    committed = read_rows(LENGTHS)
    found = [asdict(one) for one in lengths()]
    assert [row.keys() for row in committed] == [one.keys() for one in found]
    pairs = [(row[k], v) for row, one in zip(committed, found, strict=True) for k, v in one.items()]
    assert [pair for pair in pairs if not agree(pair[0], str(pair[1]))] == []
    spire = {one["rounds"]: one for one in found if one["name"] == "SPIRE"}
    assert f"{spire[600]['lowest']:.3f}" == "0.832"  # seed 10, as results.md says


def test_the_fits_of_the_fourth_figure_are_those_of_the_rows() -> None:
    committed = read_rows(FITS)
    found = [asdict(one) for one in fits()]
    assert [row.keys() for row in committed] == [one.keys() for one in found]
    pairs = [(row[k], v) for row, one in zip(committed, found, strict=True) for k, v in one.items()]
    assert [pair for pair in pairs if not agree(pair[0], str(pair[1]))] == []
    assert {(one["world"], one["name"]) for one in found} >= set(product(WORLDS, ("SPIRE", FT)))


def test_a_published_slope_is_that_of_the_clients() -> None:
    rows = study_rows(CLIENTS.parents[1] / "study-worlds-cpu")
    world = "federation.num_clients=24;adapt.lr="
    one = Published("", "", "", "slope", "kid_after", "fedavg_ft", "spire", f"{world}0.0003")
    one = replace(one, against_where=f"{world}0.02")
    parts = [replace(one, statistic=name) for name in ("slope_low", "slope_high", "slope_p")]
    slope, low, high, p = published_values(rows, [one, *parts])
    line = covered_clients().line
    assert line.slope.half_width is not None
    assert math.log(slope) == pytest.approx(line.slope.mean / 10)
    assert math.log(high / low) == pytest.approx(line.slope.half_width / 5)
    assert p == pytest.approx(line.slope_p)
    with pytest.raises(DataError, match="nn_gap above zero, a hull_tv and equal steps of client"):
        published_values(rows, [replace(one, measure="nn_gap")])


def test_a_comparison_without_a_name_is_told() -> None:
    found = Finding(Primary("lora", where={"adapt.num_images": 4}), (), None)
    with pytest.raises(DataError, match=r"study-worlds-cpu, lora, lora, adapt\.num_images=4"):
        name_of("study-worlds-cpu", found)


def test_ratios_alone_are_drawn_and_one_without_an_interval_is_told() -> None:
    effect = Estimate(0.2, 0.1, 5, 0.1, 0.3)
    ratio = Finding(Primary("fedavg_ft"), (), effect, 0.01, 0.01, 0.9)
    difference = replace(ratio, primary=Primary("fedavg_ft", scale="difference"))
    [bar] = drawn("study-styles-cpu", [ratio, difference])
    assert (bar.scale, bar.mean, bar.half) == ("ratio", 0.2, 0.1)
    with pytest.raises(DataError, match="got none of study-styles-cpu, new clients' KID"):
        drawn("study-styles-cpu", [replace(ratio, effect=None, num_not_positive=1)])


def test_a_name_says_how_many_images() -> None:
    one = primaries(load_sweep("study-few-images-cpu").primary)[0]
    for num, noun in (("1", "image"), ("4", "images")):
        found = Finding(one, (("adapt.num_images", num),), None)
        assert name_of("study-few-images-cpu", found).endswith(f" ({num} {noun})")
