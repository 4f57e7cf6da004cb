"""What the pictures say is what they were given; how they look is for eyes."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from pipeline.figures.image_grids import image_grid, labelled_grids
from pipeline.figures.plots import forgetting_figure, matrix_figure, partition_figure
from pipeline.figures.style import OKABE_ITO
from spire_core.errors import DataError


def drawn(figure: Figure, path: Path) -> list[Axes]:
    """Save the figure, which raises on any warning of the layout, and return its axes."""
    figure.savefig(path / "figure.png")
    assert (path / "figure.png").stat().st_size > 1000
    return figure.axes


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def curves(points: list[tuple[str, str, float, float]]) -> pd.DataFrame:
    frame = pd.DataFrame(points, columns=["method", "metric", "step", "value"])
    return frame.assign(metric="forgetting/" + frame.metric)


def test_a_partition_names_new_clients_and_shows_its_counts(tmp_path: Path) -> None:
    counts = np.array([[120, 0, 3], [0, 55, 0], [7, 7, 7]])
    axes = drawn(partition_figure(counts, ["cat", "dog", "automobile"], 2), tmp_path)[0]
    assert [t.get_text() for t in axes.texts] == [str(c) for c in counts.ravel()]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["0", "1", "new 2"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["cat", "dog", "automobile"]
    (line,) = axes.lines
    assert np.asarray(line.get_ydata()).tolist() == [1.5, 1.5]


@pytest.mark.parametrize("num_classes", [40, 5000])
def test_a_figure_of_many_classes_is_no_wider_than_one_of_forty(num_classes: int) -> None:
    """Its memory would grow with its width, and the run would be killed before its first round."""
    names = [f"class {i}" for i in range(num_classes)]
    figure = partition_figure(np.ones((3, num_classes), int), names, 2)
    assert figure.get_figwidth() == pytest.approx(1.8 + 0.55 * 40)


def test_a_method_has_one_colour_in_all_forgetting_panels(tmp_path: Path) -> None:
    points = [("spire", "own", 0, 0.0), ("spire", "own", 1, 0.1), ("local", "global", 0, 0.0)]
    points += [("local", "global", 1, 0.5), ("spire", "global", 0, 0.0), ("spire", "kid", 0, 7.0)]
    figure = forgetting_figure(curves(points))
    left, right = drawn(figure, tmp_path)
    lines = {str(line.get_label()): line for line in right.lines}
    assert left.lines[0].get_color() == lines["spire"].get_color() == OKABE_ITO[0]
    assert lines["local"].get_xydata().tolist() == [[0, 0.0], [1, 0.5]]
    assert legend_of(figure) == ["spire", "local"]
    assert left.get_xlabel() == "epochs of adaptation"
    assert forgetting_figure(curves([("spire", "kid", 0, 7.0)])) is None


@pytest.mark.parametrize(("num", "num_texts"), [(12, 144), (21, 0)])
def test_a_matrix_of_up_to_20_clients_is_numbered(tmp_path: Path, num: int, num_texts: int) -> None:
    matrix = np.linspace(-0.01, 0.2, num * num).reshape(num, num)
    names = [f"client {i}" for i in range(num)]
    axes = drawn(matrix_figure(matrix, names, names, "KID between clients"), tmp_path)[0]
    assert len(axes.texts) == num_texts
    assert axes.get_ylabel() == "samples of client"
    assert axes.get_xlabel() == "data of client"
    assert np.array_equal(np.asarray(axes.images[0].get_array()), matrix)


def test_a_grid_by_hand() -> None:
    images = np.array([10, 20, 30], np.uint8).reshape(3, 1, 1, 1)
    grid = image_grid(images, columns=2, pad=1, scale=1)
    expected = [
        [255, 255, 255, 255, 255],
        [255, 10, 255, 20, 255],
        [255, 255, 255, 255, 255],
        [255, 30, 255, 255, 255],
        [255, 255, 255, 255, 255],
    ]
    for channel in range(3):
        assert grid[:, :, channel].tolist() == expected


def test_floats_from_minus_one_to_one_become_bytes() -> None:
    images = np.array([-1.0, 0.0, 1.0, 1.5, -9.0], np.float32).reshape(5, 1, 1, 1)
    grid = image_grid(images, columns=5, pad=0, scale=1)
    assert grid[0, :, 0].tolist() == [0, 128, 255, 255, 0]
    with pytest.raises(DataError, match="expected finite images"):
        image_grid(np.full((1, 1, 2, 2), np.nan), columns=2)


@pytest.mark.parametrize("name", [r"a$\bad{$", "$x$", "caf\udce9"])
def test_a_name_is_shown_as_it_is(name: str, tmp_path: Path) -> None:
    counts = np.array([[1, 2]])
    grid = [(name, np.zeros((1, 1, 2, 2), np.uint8))]
    figures = [
        partition_figure(counts, [name, "b"], 1),
        matrix_figure(counts, [name], [name, "b"], name, name, (name, name)),
    ]
    shown = name.replace("\udce9", r"\udce9")
    for i, figure in enumerate(figures):
        figure.savefig(tmp_path / f"{i}.png")
        texts = [text.get_text().replace(r"\$", "$") for text in figure.findobj(Text)]
        assert shown in texts
    height = len(image_grid(grid[0][1], 1))
    assert (labelled_grids(grid, 1)[:-height] < 255).any()
