"""The first figure of docs/results.md names each comparison of new clients that it can show."""

from dataclasses import asdict, replace

import pytest

from benchmarks.published import agree, read_rows
from benchmarks.verdicts import BARS, NAMES, bars_of, drawn, is_shown, name_of, studies
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
    bars = [asdict(bar) for study in studies() for bar in bars_of(study)]
    committed = read_rows(BARS)
    assert [row.keys() for row in committed] == [bar.keys() for bar in bars]
    pairs = [(row[k], v) for row, bar in zip(committed, bars, strict=True) for k, v in bar.items()]
    assert [pair for pair in pairs if not agree(pair[0], str(pair[1]))] == []


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
