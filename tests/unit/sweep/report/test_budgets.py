"""Scores against the privacy budget: which runs make a line, where they stand, what is drawn."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from pipeline.tracking.mlflow_queries import TrackedRun
from sweeps.report.budgets import ATTACK, budget_pictures, lines
from sweeps.report.figures import Picture
from sweeps.report.groups import Group, group_runs

KID, FLOOR = "final/adapt_kid_after", "final/adapt_kid_floor"


def run(method: str, seed: int, epsilon: float | None, kid: float, **more: Any) -> TrackedRun:
    """A finished run; `auc` is an attack's, and other words are settings with __ for a dot."""
    auc = more.pop("auc", None)
    told = {key.replace("__", "."): str(value) for key, value in more.items()}
    told |= {"method.name": method, "seed": str(seed), "privacy.adapt.epsilon": str(epsilon)}
    finals = {KID: kid, FLOOR: 0.01} | ({} if auc is None else {ATTACK: auc})
    name = "-".join([method, str(seed), *told.values()])
    return TrackedRun(name, name, "FINISHED", told, {"partition_hash": f"p{seed}"}, finals, 0)


def noisy(method: str, epsilon: float, kid: float, **more: Any) -> list[TrackedRun]:
    """Two seeds of a private fit, `kid` on average."""
    more = {"privacy__adapt__mechanism": "dp_sgd"} | more
    return [run(method, s, epsilon, kid + 0.1 * (2 * s - 1), **more) for s in (0, 1)]


@pytest.fixture(scope="module")
def groups() -> list[Group]:
    """SPIRE by two mechanisms, fine-tuning at two rates, and fedavg, which nobody adapts."""
    release = {"privacy__adapt__mechanism": "one_release"}
    runs = [run("spire", s, None, 0.7, privacy__adapt__mechanism="dp_sgd", auc=0.6) for s in (0, 1)]
    runs += [run("fedavg_ft", 0, None, 0.8), run("fedavg", 0, None, 1.6)]
    for epsilon, kid in ((0.5, 1.0), (8.0, 0.75)):
        runs += noisy("spire", epsilon, kid, auc=0.5)
        runs += noisy("spire", epsilon, kid + 0.1, **release)
        for rate, loss in ((0.0001, 0.3), (0.001, 0.2)):
            runs += noisy("fedavg_ft", epsilon, kid + loss, privacy__adapt__lr=rate)
    return group_runs(runs)


def test_a_line_has_the_best_rate_at_each_budget_and_ends_without_privacy(
    groups: list[Group],
) -> None:
    found = {line.name: line for line in lines(groups, KID)}
    assert list(found) == ["spire, dp_sgd", "spire, one_release", "fedavg_ft, dp_sgd", "fedavg"]
    [tuned] = found["fedavg_ft, dp_sgd"].series(KID)
    assert [x for x, *_ in tuned.points] == [0.5, 8.0, math.inf]
    assert [mean for _, mean, *_ in tuned.points] == pytest.approx([1.2, 0.95, 0.8])
    assert tuned.points[0][2:] == pytest.approx((1.1, 1.3))
    ends = [found[name].groups[math.inf] for name in ("spire, dp_sgd", "spire, one_release")]
    assert ends[0] is ends[1]
    assert [x for x, *_ in found["fedavg"].series(KID)[0].points] == [math.inf]
    assert found["fedavg"].series(ATTACK) == []


def test_how_many_clients_are_computed_at_once_is_in_no_name() -> None:
    """Methods that are trained one by one have another value of it than those in groups."""
    runs = noisy("spire", 4.0, 1.0, client__group_size=4)
    runs += noisy("lora", 4.0, 1.5, client__group_size=2)
    assert [line.name for line in lines(group_runs(runs), KID)] == ["spire", "lora"]


def test_one_method_with_several_groups_is_told_apart_by_them() -> None:
    runs = noisy("spire", 4.0, 1.0, client__group_size=4)
    runs += noisy("spire", 4.0, 1.5, client__group_size=2)
    settings = [group.setting for group in group_runs(runs)]
    assert settings == [(("client.group_size", "2"),), (("client.group_size", "4"),)]


def test_mechanisms_share_a_colour_and_methods_keep_theirs(groups: list[Group]) -> None:
    looks = {line.name: (line.style, line.variant) for line in lines(groups, KID)}
    assert looks["spire, dp_sgd"] == (0, 0)
    assert looks["spire, one_release"] == (0, 1)
    assert len(set(looks.values())) == len(looks)


def test_budgets_are_named_with_no_privacy_at_the_right_end(
    groups: list[Group], tmp_path: Path
) -> None:
    [picture] = budget_pictures(groups, KID)
    assert (picture.name, picture.title) == ("privacy_budget", "What privacy costs")
    scores, attacks = picture.figure.axes
    for axes in (scores, attacks):
        assert axes.get_xscale() == "log"
        assert [t.get_text() for t in axes.get_xticklabels()] == ["0.5", "8", "no privacy"]
        assert list(axes.get_xticks()) == [0.5, 8.0, 128.0]
        assert axes.get_xlim() == (0.25, 256.0)  # with audits of few budgets as well
    drawn = {str(bars.get_label()): bars.lines[0] for bars in scores.containers}
    assert drawn["spire, dp_sgd"].get_xydata().tolist() == [[0.5, 1.0], [8.0, 0.75], [128.0, 0.7]]
    assert drawn["spire, one_release"].get_linestyle() == "--"
    assert drawn["spire, one_release"].get_markerfacecolor() == "white"
    audited = [bars.lines[0].get_ydata().tolist() for bars in attacks.containers]
    assert audited == [[0.5, 0.5, 0.6]]  # no second line of the public fit alone
    assert shown(picture.figure, tmp_path) == [
        *("spire, dp_sgd", "spire, one_release", "fedavg_ft, dp_sgd", "fedavg"),
        *("chance, of attacks", "floor (real against real)"),
    ]


def shown(figure: Figure, folder: Path) -> list[str]:
    """Save the figure, which raises on any warning of the layout; return its legend's texts."""
    figure.savefig(folder / "figure.png")
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_runs_that_nobody_audited_have_one_panel(groups: list[Group]) -> None:
    runs = [run for group in groups for run in group.runs if ATTACK not in run.finals]
    [picture] = budget_pictures(group_runs(runs), KID)
    assert len(picture.figure.axes) == 1
    assert "AUC" not in picture.caption


def test_tasks_have_figures_of_their_own_and_sizes_lines_of_their_own() -> None:
    def picture_of(**axes: tuple[int, int]) -> list[Picture]:
        runs = list[TrackedRun]()
        [(key, values)] = axes.items()
        for value in values:
            for epsilon in (1.0, 4.0):
                runs += noisy("spire", epsilon, 1.0, **{key: value})
        return budget_pictures(group_runs(runs), KID)

    few, many = picture_of(adapt__num_images=(16, 64))
    assert (few.name, many.name) == ("privacy_budget_1", "privacy_budget_2")
    assert many.title == "What privacy costs (adapt.num_images=64)"
    runs = noisy("spire", 1.0, 1.0, adapt__num_images=16)
    runs += noisy("spire", 4.0, 1.0, adapt__num_images=16)
    for method, epsilon in itertools.product(("spire", "fedavg_ft"), (1.0, 4.0)):
        runs += noisy(method, epsilon, 1.0, adapt__num_images=64)
    most = budget_pictures(group_runs(runs), KID)
    assert [picture.name for picture in most] == ["privacy_budget_2", "privacy_budget_1"]
    [both] = picture_of(model__d_emb=(16, 64))
    names = [str(bars.get_label()) for bars in both.figure.axes[0].containers]
    assert names == ["spire, model.d_emb=16", "spire, model.d_emb=64"]


def test_one_budget_alone_is_no_figure(groups: list[Group]) -> None:
    """Neither are runs without any, which have no budget among their settings."""
    for epsilon in ("8.0", "None"):
        runs = [
            run
            for group in groups
            for run in group.runs
            if run.params["privacy.adapt.epsilon"] == epsilon
        ]
        assert budget_pictures(group_runs(runs), KID) == []
