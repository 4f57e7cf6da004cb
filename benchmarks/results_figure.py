"""Draw docs/images/results.png from sweeps/studies: python -m benchmarks.results_figure"""

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from benchmarks.results import PAGE, rows, score

METHODS = {
    "spire": ("SPIRE", "#0072B2", "o"),
    "fedavg_ft": ("full fine-tuning", "#D55E00", "s"),
    "shared_rep": ("Shared-Rep", "#009E73", "^"),
    "lora": ("LoRA", "#CC79A7", "D"),
}
SIZES = {24: 14, 96: 40, 384: 90}  # of a marker, by the steps of a fit
WORLDS = {  # studies, and which of their fits
    "one class each": (["fits-worlds-cpu"], {"federation.num_clients": "30"}),
    "pairs of classes": (["fits-worlds-cpu"], {"federation.num_clients": "135"}),
    "mixtures, 1,600 rounds": (["study-rivals-cpu", "fits-rivals-cpu"], {}),
    "mixtures, 9,600 rounds": (["fits-length-cpu"], {}),
}
PLAIN = {"adapt.early_stopping": "False", "adapt.guidance": "None"}
ROUNDS = {600: "rounds-600", 1600: "rivals", 2400: "rounds-2400", 9600: "rounds-9600"}


def fits(study: str) -> Any:
    """Return new clients' mean scores by fit: a world, a method and its settings."""
    new = rows(study)[lambda all: all.clients == "new"]
    keys = [key for key in new if key.startswith(("adapt.", "federation.", "partition."))]
    scores = ["kid_after", "kid_copies", "nn_excess", "heldout_after", "steps"]
    return new.groupby([*keys, "method"])[new.columns.intersection(scores)].mean().reset_index()


def world_fits(name: str) -> Any:
    """Return the fits of a world without early stopping or guidance."""
    studies, where = WORLDS[name]
    found: Any = pd.concat([fits(study) for study in studies])
    for key, to in (where | PLAIN).items():
        found = found[found[key] == to] if key in found else found
    return found.sort_values("steps")


def draw_world(axes: Any, found: Any) -> None:
    for (method, _), line in found.groupby(["method", "adapt.lr"]):
        name, colour, marker = METHODS[method]
        axes.plot(line.nn_excess, line.kid_after, color=colour, linewidth=1)
        sizes = [SIZES[round(steps)] for steps in line.steps]
        places = line.nn_excess, line.kid_after
        axes.scatter(*places, sizes, colour, marker=marker, label=name, zorder=3, edgecolor="white")
    copies = found.kid_copies.mean()
    axes.axhline(copies, color="grey", linestyle=":", label="copies of the 64 images")
    axes.set(yscale="log", ylim=(0.03, 3), xlim=(-0.02, 0.34), xlabel="copies: share above chance")


def draw_rounds(axes: Any) -> None:
    for measure, name, style in (("kid_after", "new clients", "-"), ("kid", "old clients", "--")):
        means = [score(pair, "b", measure).mean() for pair in ROUNDS.values()]
        axes.plot([*ROUNDS], means, style, color=METHODS["spire"][1], marker="o", label=name)
    axes.set(xscale="log", yscale="log", ylim=(0.03, 3), xlabel="rounds of pre-training")
    axes.set_xticks([*ROUNDS], [f"{rounds:,}" for rounds in ROUNDS], fontsize=8)
    axes.legend(frameon=False)
    axes.minorticks_off()


def draw() -> None:
    figure, panels = plt.subplots(2, 3, figsize=(9, 6), sharey=True, layout="constrained")
    for axes, name in zip(panels.flat[[0, 1, 3, 4]], WORLDS, strict=True):
        draw_world(axes, world_fits(name))
        axes.set_title(name, fontsize=10)
    draw_rounds(panels[0, 2])
    panels[0, 2].set_title("SPIRE, mixtures, 96 steps", fontsize=10)
    for axes in panels.flat[:5]:
        axes.set_yticks([0.05, 0.1, 0.2, 0.5, 1, 2], ["0.05", "0.1", "0.2", "0.5", "1", "2"])
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("KID of new clients")
    drawn = [axes.get_legend_handles_labels() for axes in panels[:, 0]]
    found = {name: handle for each in drawn for handle, name in zip(*each, strict=True)}
    names = [*(name for name, *_ in METHODS.values()), "copies of the 64 images"]
    handles = {name: found[name] for name in names}
    for steps, size in SIZES.items():
        handles[f"{steps} steps"] = panels[1, 2].scatter([], [], size, "grey")
    panels[1, 2].axis("off")
    panels[1, 2].legend(handles.values(), handles.keys(), loc="center", frameon=False)
    figure.savefig(PAGE.parent / "images" / "results.png", dpi=110)


if __name__ == "__main__":
    draw()
