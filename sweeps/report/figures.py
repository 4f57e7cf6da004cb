"""The report's figures: KID over rounds, against settings and against costs; forgetting curves.

Points are means over seeds with the lowest and the highest seed. Only what the runs have is drawn:
a method without a metric is missing from its figure, and a figure without any line is not made.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import TYPE_CHECKING

from sweeps.report.choice import best_groups, task_metric
from sweeps.report.fit_axis import fit_axis
from sweeps.report.groups import SCORES, Group, by_task, label
from sweeps.report.seed_plots import LOG_RATIO, Scale, panels_figure, rounds_figure, settings_figure
from sweeps.report.series import Histories, against_cost, against_setting, curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXES: dict[str, tuple[str, Scale]] = {
    "model.d_emb": ("size of the client embedding, d_emb [numbers]", "log2"),
    "federation.tau": ("steps between two synchronizations, tau [optimizer steps]", "log2"),
    "federation.local_epochs": ("local epochs between two synchronizations [passes]", "log2"),
    "adapt.lr": ("learning rate of adaptation", "log10"),
    "adapt.epochs": ("length of adaptation [epochs]", "log2"),
}
COSTS = {
    "params/trainable_new_client": ("parameters that a new client trains", "trained_parameters"),
    "comm/total_mb": ("sent in pre-training, up and down, all clients [MB]", "sent_bytes"),
}
KID_ROUNDS = "pretrain/kid/mean"
FORGETTING = {
    "forgetting/own": ("own: the new client", "KID above its lowest so far"),
    "forgetting/global": ("global: existing clients", "KID above its start"),
    "forgetting/replaced": ("replaced: the new client alone", "KID above the population's"),
}
KID_EPOCHS = "adapt/kid/mean"
OVERFITTING = {
    "adapt/train_loss": ("on training images", "denoising loss"),
    "adapt/heldout/mean": ("on held-out images", "denoising loss"),
    KID_EPOCHS: ("what is drawn", "KID of new clients"),
}
MAX_LINES = 8
AT_BEST = "each method at its own best setting"
SPREAD = "lines: mean over seeds; shaded or barred: from the lowest to the highest seed"


@dataclass(frozen=True)
class Picture:
    """A figure, its file's name, and what is said below it."""

    name: str
    title: str
    caption: str
    figure: "Figure"


def draw_all(groups: Sequence[Group], chosen_by: str, histories: Histories) -> list[Picture]:
    """Return all figures of all tasks; `histories` are needed of each method's best setting."""
    tasks, all_pictures = by_task(groups), []
    for number, (task, here) in enumerate(tasks.items(), 1):
        pictures = _draw_task(here, chosen_by, histories, label(task))
        if len(tasks) > 1:
            pictures = [
                replace(p, name=f"{p.name}_{number}", title=f"{p.title} ({label(task)})")
                for p in pictures
            ]
        all_pictures += pictures
    return all_pictures


def _draw_task(
    groups: Sequence[Group], chosen_by: str, histories: Histories, task: str
) -> list[Picture]:
    metric = task_metric(groups, chosen_by)
    chosen = best_groups(groups, metric)
    pictures = [rounds_picture(chosen, histories, task)]
    pictures += [axis_picture(groups, key, metric, task) for key in _axes(groups)]
    pictures.append(forgetting_picture(chosen, histories, task))
    is_alone = len({group.method for group in groups}) == 1 and len(groups) <= MAX_LINES
    pictures.append(overfitting_picture(groups if is_alone else chosen, histories, task))
    pictures += [cost_picture(groups, key, metric, task) for key in COSTS]
    return [picture for picture in pictures if picture is not None]


def rounds_picture(groups: Sequence[Group], histories: Histories, task: str) -> Picture | None:
    """Return KID of the pre-training clients over rounds, one line for each of these groups."""
    series = curves(groups, KID_ROUNDS, histories)
    if not series:
        return None
    floor = _floor(groups, "final/pretrain_kid_floor")
    labels = ("round (one synchronization)", "KID, mean over pre-training clients")
    figure = rounds_figure(series, *labels, task, floor)
    text = f"KID of the pre-training clients, {AT_BEST}; {SPREAD}. Lower is better."
    return Picture("kid_rounds", "KID over rounds", text, figure)


def forgetting_picture(groups: Sequence[Group], histories: Histories, task: str) -> Picture | None:
    """Return the forgetting curves in one panel for each kind that any of these groups has."""
    xlabel, factor = fit_axis(groups)
    panels, ylabels = {}, []
    for key, (text, ylabel) in FORGETTING.items():
        if series := curves(groups, key, histories, factor):
            panels[text] = series
            ylabels.append(ylabel)
    if not panels:
        return None
    figure = panels_figure(panels, xlabel, ylabels, task)
    text = (
        f"What adapting to a new client costs, {AT_BEST}; {SPREAD}. Own: KID above its lowest so "
        "far, which noise alone lifts above 0; over-fitted only where it exceeds KID's noise. "
        "Global: above 0 is lost for existing clients. Replaced: lost if only the adapted client "
        "is kept. Lines at 0 lie on each other."
    )
    return Picture("forgetting", "Forgetting during adaptation", text, figure)


def overfitting_picture(groups: Sequence[Group], histories: Histories, task: str) -> Picture | None:
    """Return new clients' losses and KID along their fit, one line for each of these groups."""
    xlabel, factor = fit_axis(groups)
    found = {key: curves(groups, key, histories, factor) for key in OVERFITTING}
    if not all(series for key, series in found.items() if key != KID_EPOCHS):
        return None
    drawn = {OVERFITTING[key]: series for key, series in found.items() if series}
    panels = {text: series for (text, _), series in drawn.items()}
    ylabels = [ylabel for _, ylabel in drawn]
    figure = panels_figure(panels, xlabel, ylabels, task, has_zero=False)
    text = (
        f"New clients along their fit; {SPREAD}. A training loss that falls while the other one "
        "rises is over-fitting; so is a KID that rises again."
    )
    return Picture("overfitting", "Over-fitting during adaptation", text, figure)


def axis_picture(groups: Sequence[Group], key: str, metric: str, task: str) -> Picture | None:
    """Return the final score against one setting; None if no method was run at two places of it."""
    series = against_setting(groups, key, metric)
    places = [point[0] for line in series for point in line.points]
    if max((len(line.points) for line in series), default=0) < 2:
        return None
    is_wide = min(places) > 0 and max(places) > LOG_RATIO * min(places)
    name, scale = AXES.get(key, (key, "log10" if is_wide else "linear"))
    scale = "linear" if min(places) <= 0 else scale
    figure = settings_figure(
        series, name, _ylabel(metric), scale, task, score_floor(groups, metric)
    )
    text = (
        f"Final score against {key}, each method at its best rate of adaptation; {SPREAD}. A line "
        "is at the best of a method's other settings, or at the one that it is named by. A dotted "
        "line continues a method that was run at one place only."
    )
    title = f"{_score(metric)} against {key}"
    return Picture(f"kid_against_{key.replace('.', '_')}", title, text, figure)


def cost_picture(groups: Sequence[Group], key: str, metric: str, task: str) -> Picture | None:
    """Return the final score against a cost, such as the bytes sent."""
    series = against_cost(groups, key, metric)
    if not series:
        return None
    xlabel, name = COSTS[key]
    floor = score_floor(groups, metric)
    figure = settings_figure(series, xlabel, _ylabel(metric), "from 0", task, floor)
    text = f"Final score against cost; at each cost the best setting; {SPREAD}."
    title = f"{_score(metric)} against {name.replace('_', ' ')}"
    return Picture(f"kid_against_{name}", title, text, figure)


def score_floor(groups: Sequence[Group], metric: str) -> float | None:
    """Return the KID of real images against real ones, where the groups have it; of no other."""
    stage, _, score = metric.removeprefix("final/").partition("_")
    return _floor(groups, f"final/{stage}_kid_floor") if score.startswith("kid") else None


def _axes(groups: Sequence[Group]) -> list[str]:
    """Return the settings that vary, known ones first."""
    keys = dict.fromkeys(key for group in groups for key, _ in group.setting)
    return [key for key in AXES if key in keys] + [key for key in keys if key not in AXES]


def _score(metric: str) -> str:
    names = {"heldout": "Held-out loss", "style": "Distance to the true images"}
    return next((name for part, name in names.items() if part in metric), "KID")


def _ylabel(metric: str) -> str:
    return f"{SCORES[metric]}, mean"


def _floor(groups: Sequence[Group], key: str) -> float | None:
    values = [value for group in groups for value in group.values(key).values()]
    return fmean(values) if values else None
