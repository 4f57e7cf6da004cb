"""What the figures of several seeds show is what they were given."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from pipeline.figures.style import GREY, OKABE_ITO
from pipeline.tracking.mlflow_queries import TrackedRun
from sweeps.report.figures import axis_picture, forgetting_picture, score_floor
from sweeps.report.fit_axis import EPOCHS, STEPS, fit_axis
from sweeps.report.groups import group_runs
from sweeps.report.heat_maps import Grid, grids_figure
from sweeps.report.seed_plots import Series, panels_figure, rounds_figure, settings_figure

SPIRE = Series("spire", 0, ((4.0, 1.0, 0.5, 1.5), (64.0, 0.8, 0.7, 1.0)))
LOCAL = Series("local", 4, ((64.0, 30.0, 20.0, 40.0),))


def legend_of(figure: Figure, folder: Path) -> list[str]:
    """Save the figure, which raises on any warning of the layout, and return its legend's texts."""
    figure.savefig(folder / "figure.png")
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_a_method_keeps_its_colour_and_marker_whoever_else_is_drawn() -> None:
    for series in ([LOCAL], [SPIRE, LOCAL]):
        axes = rounds_figure(series, "x", "y").axes[0]
        line = {str(line.get_label()): line for line in axes.lines}["local"]
        assert (to_hex(line.get_color()), line.get_marker()) == (OKABE_ITO[4].lower(), "v")


def test_lines_that_lie_on_each_other_are_both_seen() -> None:
    """The later method's is on top, and dashed."""
    below, above = (Series(name, style, SPIRE.points) for style, name in enumerate("ab"))
    first, second = rounds_figure([below, above], "x", "y").axes[0].lines
    assert (first.get_linestyle(), second.get_linestyle()) == ("-", "--")
    assert second.get_zorder() > first.get_zorder()


def test_scores_that_differ_by_orders_of_magnitude_are_logarithmic(tmp_path: Path) -> None:
    figure = rounds_figure([SPIRE, LOCAL], "x", "y", floor=0.004)
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert [t.get_text() for t in axes.get_yticklabels()] == ["0.5", "1", "2", "5", "10", "20"]
    assert legend_of(figure, tmp_path) == ["spire", "local", "floor 0.004, below the axis"]
    (axes,) = rounds_figure([SPIRE, LOCAL], "x", "y", floor=0.4).axes
    assert [line.get_ydata()[0] for line in axes.lines if line.get_color() == GREY] == [0.4]


def test_other_scores_are_linear_and_a_floor_below_zero_is_drawn(tmp_path: Path) -> None:
    figure = rounds_figure([SPIRE], "x", "y", floor=-0.001)
    (axes,) = figure.axes
    assert axes.get_yscale() == "linear"
    assert [line.get_ydata()[0] for line in axes.lines if line.get_color() == GREY] == [-0.001]
    assert legend_of(figure, tmp_path) == ["spire", "floor (real against real)"]


def test_one_seed_has_no_bars() -> None:
    alone = Series("spire", 0, ((4.0, 1.0, 1.0, 1.0), (64.0, 0.8, 0.8, 0.8)))
    (axes,) = settings_figure([alone], "d_emb", "KID", "log2").axes
    assert not axes.containers[0].has_yerr


def test_losses_that_differ_by_orders_of_magnitude_are_logarithmic() -> None:
    panels = {"a": [SPIRE, LOCAL], "b": [SPIRE]}
    figure = panels_figure(panels, "epochs", ["loss", "loss"], has_zero=False)
    assert [axes.get_yscale() for axes in figure.axes] == ["log", "linear"]


def test_settings_are_named_where_they_were_tried(tmp_path: Path) -> None:
    figure = settings_figure([SPIRE, LOCAL], "d_emb", "KID", "log2")
    (axes,) = figure.axes
    assert [t.get_text() for t in axes.get_xticklabels()] == ["4", "64"]
    dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert [line.get_ydata()[0] for line in dotted] == [30.0]
    (bars,) = axes.containers[0][2]
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[0.5, 1.5], [0.7, 1.0]]
    assert legend_of(figure, tmp_path) == ["spire", "local"]


@pytest.mark.parametrize("places", [(0.0, 64.0, 455172.0), (0.0,), (64.0, 455172.0), (0.02,)])
def test_a_cost_may_be_nothing(places: tuple[float, ...], tmp_path: Path) -> None:
    series = [Series("spire", 0, tuple((x, 1.0, 0.9, 1.1) for x in places))]
    figure = settings_figure(series, "bytes", "KID", "from 0")
    legend_of(figure, tmp_path)
    low, high = figure.axes[0].get_xlim()
    assert low < min(places)
    assert max(places) <= high
    assert figure.axes[0].get_xscale() == ("symlog" if 0.0 in places else "log")


def test_a_legend_of_long_names_stays_within_its_figure() -> None:
    names = [f"fedavg_ft, adapt.lr=0.001, federation.num_rounds={n}" for n in (600, 2400, 9600)]
    lines = [Series(name, i, ((1.0, 2.0, 1.0, 3.0),)) for i, name in enumerate(names)]
    [legend] = (figure := settings_figure(lines, "x", "y", "linear")).legends
    figure.draw_without_rendering()
    assert legend.get_window_extent().width <= figure.bbox.width
    assert [text.get_text() for text in legend.get_texts()] == names


def test_panels_share_one_legend(tmp_path: Path) -> None:
    figure = panels_figure({"own": [SPIRE], "global": [SPIRE, LOCAL]}, "epochs", ["a", "b"])
    assert [axes.get_title() for axes in figure.axes] == ["own", "global"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["a", "b"]
    assert legend_of(figure, tmp_path) == ["spire", "local"]


@pytest.mark.parametrize("name", [r"a$\bad{$", "$x$", "caf\udce9"])
def test_a_name_is_shown_as_it_is(name: str, tmp_path: Path) -> None:
    line = Series(name, 0, SPIRE.points)
    shown = name.replace("$", r"\$").replace("\udce9", r"\udce9")
    for figure in (
        rounds_figure([line], name, name, name),
        panels_figure({name: [line]}, name, [name], name),
        settings_figure([line], name, name, "log2", name),
    ):
        assert legend_of(figure, tmp_path) == [shown]
    grid = Grid(name, (name,), (name,), np.ones((1, 1)), (("1",),))
    grids_figure([grid], name, [name], name).savefig(tmp_path / "grid.png")


@pytest.mark.parametrize(
    ("metric", "floor", "title"),
    [
        ("final/adapt_kid_after", 0.25, "KID"),
        ("final/pretrain_kid_mean", 0.5, "KID"),
        ("final/adapt_heldout_after", None, "Held-out loss"),
        ("final/adapt_style_distance_after", None, "Distance to the true images"),
    ],
)
def test_a_floor_of_kid_and_its_name_are_of_kid_alone(
    metric: str, floor: float | None, title: str
) -> None:
    finals = {metric: 1.0, "final/adapt_kid_floor": 0.25, "final/pretrain_kid_floor": 0.5}
    params = {"method.name": "spire", "seed": "0"}
    runs = [
        TrackedRun(rate, rate, "FINISHED", params | {"adapt.lr": rate}, {}, finals, 0)
        for rate in ("0.1", "0.2")
    ]
    groups = group_runs(runs)
    assert score_floor(groups, metric) == floor
    picture = axis_picture(groups, "adapt.lr", metric, "")
    assert picture is not None
    assert picture.title == f"{title} against adapt.lr"


def test_own_forgetting_is_said_to_need_more_than_noise() -> None:
    params = {"method.name": "spire", "seed": "0"}
    groups = group_runs([TrackedRun("a", "a", "FINISHED", params, {}, {}, 0)])
    histories = {"a": {"forgetting/own": [(0, 0.0), (1, 0.1)]}}
    picture = forgetting_picture(groups, histories, "")
    assert picture is not None
    assert "Own: KID above its lowest so far, which noise alone lifts above 0;" in picture.caption


@pytest.mark.parametrize(
    ("settings", "name", "places"),
    [
        ({"adapt.num_images": "64"}, STEPS, [0, 4, 8]),
        ({"adapt.num_images": "64", "adapt.batch_size": "60"}, STEPS, [0, 2, 4]),
        ({"adapt.num_images": "20", "adapt.early_stopping": "True"}, STEPS, [0, 1, 2]),
        ({"adapt.num_images": "20", "adapt.guidance": "[1.0, 2.0]"}, STEPS, [0, 1, 2]),
        ({"adapt.num_images": "20"}, STEPS, [0, 2, 4]),
        ({}, EPOCHS, [0, 1, 2]),
        ({"adapt.num_images": "64", "privacy.adapt.epsilon": "8"}, EPOCHS, [0, 1, 2]),
    ],
)
def test_curves_along_a_fit_are_over_steps_where_all_clients_take_as_many(
    settings: dict[str, str], name: str, places: list[int]
) -> None:
    params = {"method.name": "spire", "seed": "0"} | settings
    groups = group_runs([TrackedRun("a", "a", "FINISHED", params, {}, {}, 0)])
    histories = {"a": {"forgetting/own": [(0, 0.0), (1, 0.1), (2, 0.2)]}}
    picture = forgetting_picture(groups, histories, "")
    assert picture is not None
    [axes] = picture.figure.axes
    assert axes.get_xlabel() == name
    assert places in [list(line.get_xdata()) for line in axes.lines]


def test_one_method_without_known_steps_puts_all_on_epochs() -> None:
    params = {"seed": "0", "adapt.num_images": "64"}
    runs = [
        TrackedRun(method, method, "FINISHED", params | {"method.name": method} | more, {}, {}, 0)
        for method, more in (("spire", {}), ("fedavg_ft", {"adapt.num_images": "None"}))
    ]
    assert fit_axis(group_runs(runs))[0] == EPOCHS
    assert fit_axis(group_runs(runs[:1]))[0] == STEPS
