"""The figure of primary comparisons: who is ahead, what it names, and its logarithmic axis."""

import math
from dataclasses import replace

import pytest

from pipeline.figures.style import ratio_ticks, svg_text
from pipeline.results.metric_names import COVERED_RATIO, FLD_EXCESS
from sweeps.primary import Primary
from sweeps.report.forest import DIFFER, METHOD, OTHER, bar_of, forest_figure, primary_pictures
from sweeps.report.primary import MATCHES, UNKNOWN, Finding
from sweeps.report.stats import Estimate

KID, READ = "final/adapt_kid_after", "final/adapt_prompt_accuracy_after"


def finding(
    mean: float, holm_p: float, equivalence: float, measure: str = KID, half: float | None = 0.1
) -> Finding:
    primary = Primary("fedavg_ft", measure, where={"adapt.num_images": 4})
    effect = Estimate(mean, half, 3, mean, mean)
    return Finding(primary, (("partition.name", "iid"),), effect, 0.01, holm_p, equivalence)


@pytest.mark.parametrize(
    ("mean", "holm_p", "equivalence", "measure", "verdict"),
    [
        (0.3, 0.01, 0.9, KID, OTHER),  # a higher KID is worse
        (-0.3, 0.01, 0.9, KID, METHOD),
        (0.3, 0.01, 0.9, READ, METHOD),  # more prompts read are better
        (-0.3, 0.01, 0.9, READ, OTHER),
        (0.3, 0.06, 0.9, KID, UNKNOWN),
        (0.01, 0.9, 0.01, KID, MATCHES),
        (0.04, 0.01, 0.01, KID, OTHER),  # both can be shown: the side says more
    ],
)
def test_who_is_ahead(
    mean: float, holm_p: float, equivalence: float, measure: str, verdict: str
) -> None:
    bar = bar_of(finding(mean, holm_p, equivalence, measure))
    assert bar is not None
    assert bar.verdict == verdict
    assert (bar.mean, bar.half, bar.margin) == (mean, 0.1, math.log1p(0.1))


def test_a_comparison_without_an_interval_has_no_bar() -> None:
    alone = finding(0.3, 0.01, 0.9, half=None)
    assert bar_of(alone) is None
    assert bar_of(Finding(Primary("fedavg_ft"), (), None)) is None
    assert primary_pictures([alone]) == []


def test_names_say_what_is_compared_and_where_once() -> None:
    bar = bar_of(finding(0.3, 0.01, 0.9))
    assert bar is not None
    expected = ["fedavg_ft against spire", "adapt.num_images=4", "partition.name=iid"]
    assert bar.name.split("\n") == expected
    named = bar_of(finding(0.3, 0.01, 0.9), "one class, " * 9)
    assert named is not None
    assert named.name.count("\n") == 2, "long names are wrapped"


def test_each_side_of_a_comparison_with_itself_has_its_own_settings() -> None:
    sides = {"where": {"client.tau": 1}, "against_where": {"client.tau": 2}}
    found = replace(finding(0.3, 0.01, 0.9), primary=Primary("spire", **sides))
    bar = bar_of(found)
    assert bar is not None
    head = ["spire at client.tau=1", "against spire at client.tau=2"]
    assert bar.name.split("\n")[:2] == head


@pytest.mark.parametrize("measure", [COVERED_RATIO, FLD_EXCESS])
def test_a_measure_of_which_neither_end_is_better_has_no_winner(measure: str) -> None:
    bar = bar_of(finding(0.3, 0.01, 0.9, measure))
    assert bar is not None
    assert bar.verdict == DIFFER


def test_a_difference_has_the_margin_of_its_own_scale() -> None:
    primary = Primary("fedavg_ft", READ, margin=0.05, scale="difference")
    bar = bar_of(replace(finding(-0.2, 0.01, 0.9), primary=primary))
    assert bar is not None
    assert (bar.scale, bar.margin, bar.verdict) == ("difference", 0.05, OTHER)


def test_what_the_figure_leaves_out_is_counted() -> None:
    found = [finding(0.3, 0.01, 0.9)] * 30 + [finding(0.3, 0.01, 0.9, half=None)]
    [picture] = primary_pictures(found)
    assert "The table has 7 more" in picture.caption
    assert len(picture.figure.axes[0].get_yticks()) == 24
    [whole] = primary_pictures(found[:2])
    assert "The table has" not in whole.caption


def test_measures_have_panels_of_their_own_and_names_are_shown_as_they_are() -> None:
    task = (("data.path", "\udcff" * 20 + "$a$"),)
    first = bar_of(replace(finding(math.log(0.5), 0.01, 0.9, half=0.0), task=task))
    second = bar_of(finding(0.2, 0.01, 0.9, "final/adapt_tv_after"))
    assert first is not None
    assert second is not None
    figure = forest_figure([first, second], {OTHER: "ahead"})
    ratios, others = figure.axes
    assert ratios.get_xlabel() == "new clients' KID: method / other"
    assert others.get_xlabel() == "new clients' TV: method / other"
    texts = [text.get_text() for text in ratios.get_xticklabels()]
    assert {"1"} < {*texts}
    numbers = [math.log(float(text)) for text in texts]
    assert [float(tick) for tick in ratios.get_xticks()] == pytest.approx(numbers, abs=1e-3)
    assert "ahead" in svg_text(figure)


@pytest.mark.parametrize("ends", [(-0.01, 0.01), (-0.05, 0.05), (-0.1, 0.6), (-6, 0.1), (-40, 40)])
def test_an_axis_of_ratios_has_some_round_ones(ends: tuple[float, float]) -> None:
    ticks = ratio_ticks(*ends)
    assert 3 <= len(ticks) <= 11
    assert all(ends[0] <= math.log(tick) <= ends[1] for tick in ticks)
    assert any(math.isclose(tick, 1) for tick in ticks)
