"""KID beside copies, after short and after long fits: what more steps buy, and what they cost.

`benchmarks.verdicts` draws the figure into docs/results.md.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any

from benchmarks.published import Published, study_rows
from benchmarks.published_scores import by_seed
from benchmarks.recompute import DOCS
from pipeline.figures.style import GREY, MARKERS, OKABE_ITO, blank_figure, plain
from sweeps.report.row_runs import NEW, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

METHODS = {
    "spire": "SPIRE",
    "fedavg_ft": "full fine-tuning",
    "shared_rep": "Shared-Rep",
    "lora": "LoRA",
}
COPIES = "copies of the training images"
BARE = {"adapt.early_stopping": "False", "adapt.guidance": "None"}  # where rows have several
WORLDS: dict[str, tuple[tuple[str, dict[str, str]], ...]] = {  # studies, and which of their runs
    "one class each": (("fits-worlds-cpu", {"federation.num_clients": "30"}),),
    "pairs of classes": (("fits-worlds-cpu", {"federation.num_clients": "135"}),),
    "Dirichlet, 1,600 rounds": (("study-rivals-cpu", {}), ("fits-rivals-cpu", {})),
    "Dirichlet, 9,600 rounds": (("fits-length-cpu", {}),),
}
SCORES = ("kid_after", "nn_excess", "kid_copies")
TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2)
SIZES = {24: 3, 96: 5, 384: 8}  # of a marker, by the steps of a fit


@dataclass(frozen=True)
class OfFit:
    """KID of new clients and their share of copies above chance: means over seeds, at one rate."""

    world: str
    name: str
    rate: str
    steps: int
    kid: float
    excess: float
    kid_copies: float


def fits() -> list[OfFit]:
    """Return each fit of the figure."""
    found = [fit for world in WORLDS for fit in _of_world(world)]
    return sorted(found, key=lambda fit: (list(WORLDS).index(fit.world), _place(fit), fit.steps))


def _place(fit: OfFit) -> tuple[int, float]:
    return list(METHODS.values()).index(fit.name), float(fit.rate)


def _of_world(world: str) -> Iterator[OfFit]:
    for study, settings in WORLDS[world]:
        rows = study_rows(DOCS / "results" / study)
        new = [row for row in rows if row["clients"] == NEW and _has(row, BARE | settings)]
        for method, rate, steps in {(row["method"], row["adapt.lr"], row["steps"]) for row in new}:
            one = Published("", "", "", "mean", "", method, where=f"adapt.lr={rate};steps={steps}")
            scores = [fmean(by_seed(new, replace(one, measure=name)).values()) for name in SCORES]
            yield OfFit(world, METHODS[method], rate, int(steps), *scores)


def _has(row: Row, settings: Mapping[str, str]) -> bool:
    return all(row.get(key, value) == value for key, value in settings.items())


def prices_figure(found: Sequence[OfFit]) -> "Figure":
    """Return a panel for each world: a line for each rate, along the steps of its fits."""
    figure = blank_figure(8.4, 6.8)
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    for axes, world in zip(panels.flat, WORLDS, strict=True):
        _draw(axes, [fit for fit in found if fit.world == world])
        axes.set_title(plain(world), fontsize=10)
    for axes in panels[-1]:
        axes.set_xlabel("share of copies, above chance")
    for axes in panels[:, 0]:
        axes.set_ylabel("KID of new clients")
    shown = {name: handle for axes in panels.flat for name, handle in _legend_of(axes).items()}
    names = [name for name in (*METHODS.values(), COPIES) if name in shown]
    handles = [shown[name] for name in names]
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure


def _draw(axes: "Axes", found: Sequence[OfFit]) -> None:
    for style, name in enumerate(METHODS.values()):
        own = [fit for fit in found if fit.name == name]
        for rate in dict.fromkeys(fit.rate for fit in own):
            line = [fit for fit in own if fit.rate == rate]
            places = [fit.excess for fit in line], [fit.kid for fit in line]
            axes.plot(*places, color=OKABE_ITO[style], linewidth=1, zorder=2)
            for x, y, fit in zip(*places, line, strict=True):
                size, colour, marker = SIZES[fit.steps], OKABE_ITO[style], MARKERS[style]
                axes.scatter(x, y, size**2, c=colour, marker=marker, zorder=3, label=name)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
    kid = fmean(fit.kid_copies for fit in found)
    axes.axhline(kid, color=GREY, linestyle=":", label=COPIES, zorder=0)
    axes.set_yscale("log")
    axes.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.minorticks_off()
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _legend_of(axes: "Axes") -> dict[str, Any]:
    handles, names = axes.get_legend_handles_labels()
    return dict(zip(names, handles, strict=True))
