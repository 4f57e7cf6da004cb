"""New clients that are asked for prompts they never showed: methods, controls, and epochs.

Controls draw without a model: copies of what the new client shows, the mean of what all
pre-training clients train on for a prompt, and the image of the nearest client among them.
"""

from collections.abc import Sequence

from sweeps.report.groups import Group, by_task, label
from sweeps.report.series import Histories
from sweeps.report.stats import Estimate, estimate
from sweeps.report.tables import HEAD, Cell, Metric, Table, head, made_table

CONTROLS = {"copies": "copies", "mean_client": "mean client", "nearest_client": "nearest client"}
SCORES: tuple[Metric, ...] = (
    ("prompts read", "prompt_accuracy"),
    ("distance", "style_distance"),
    ("retrieved", "retrieved"),
    ("rank", "retrieval_rank"),
    ("copied", "copied"),
    ("distance to shown", "shown_distance"),
)
TRUE, FORGOTTEN = "final/adapt_true_accuracy", "final/adapt_forgetting_prompts"
EPOCHS: tuple[Metric, ...] = (
    ("prompts read", "text/prompt_accuracy"),
    ("distance", "text/style_distance"),
    ("retrieved", "text/retrieved"),
    ("copied", "text/copied"),
    ("prompts forgotten", "forgetting/prompts"),
)
CAPTION = (
    "What new clients draw for prompts that they never showed, mean over clients. Read: the "
    "classifier sees what was asked for; of the true images it reads the share in the column true. "
    "Distance: mean absolute difference to the true image. Retrieved: no other client's images are "
    "nearer. Rank: how many clients' are as near as its own. Copied: nearer to an image that the "
    "client shows than to the true one. Forgotten: the share read before adaptation minus after. "
    "Before and the controls draw without any adaptation: copies are what the client shows, in "
    "turn; mean client and nearest client are made of the pre-training clients' own images, which "
    "no server has."
)
ALONG_EPOCHS = (
    "The same scores after so many epochs of adaptation, each method at its best setting."
)


def prompts_table(groups: Sequence[Group]) -> Table | None:
    """Return rows of these groups before and after adaptation, and of the controls.

    None without text.
    """
    rows: list[tuple[Cell, ...]] = []
    for task, here in by_task(groups).items():
        with_text = [group for group in here if group.values("final/adapt_style_distance_after")]
        for group in with_text:
            for state in ("before", "after"):
                cells = (*head(group), state, len(group.runs), *_scores(group, state))
                more = (group.estimate(TRUE), group.estimate(FORGOTTEN))
                rows.append((*cells, *(more if state == "after" else (None, None))))
        for control, name in CONTROLS.items() if with_text else ():
            source = max(with_text, key=lambda group: len(group.runs))
            if any(scores := _scores(source, control)):
                cells = (label(task), name, "", "", len(source.runs), *scores)
                rows.append((*cells, source.estimate(TRUE), None))
    columns = (*HEAD, "adaptation", "n", *(title for title, _ in SCORES), "true", "forgotten")
    return made_table("prompts", "Prompts of new clients", CAPTION, columns, rows)


def _scores(group: Group, suffix: str) -> tuple[Cell, ...]:
    return tuple(group.estimate(f"final/adapt_{score}_{suffix}") for _, score in SCORES)


def prompt_epochs_table(groups: Sequence[Group], histories: Histories) -> Table | None:
    """Return these groups' scores of prompts after each number of epochs; None without text."""
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        curves = {key: _by_epoch(group, key, histories) for _, key in EPOCHS}
        for epoch in sorted({epoch for curve in curves.values() for epoch in curve}):
            cells = (curve.get(epoch) for curve in curves.values())
            rows.append((*head(group), f"{epoch:g}", *cells))
    columns = (*HEAD, "epochs", *(title for title, _ in EPOCHS))
    title = "Prompts along the epochs of adaptation"
    return made_table("prompt_epochs", title, ALONG_EPOCHS, columns, rows)


def _by_epoch(group: Group, key: str, histories: Histories) -> dict[float, Estimate | None]:
    values: dict[float, list[float]] = {}
    for run in group.runs:
        for epoch, value in histories.get(run.run_id, {}).get(key, ()):
            values.setdefault(epoch, []).append(value)
    return {e: estimate(own, missing=len(group.runs) - len(own)) for e, own in values.items()}
