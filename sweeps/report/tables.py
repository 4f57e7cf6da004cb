"""The report's tables of methods and settings: which columns there are, and rows of estimates."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.results.metric_names import (
    CLIENTS_DELTA,
    CLIENTS_EPSILON,
    DELTA,
    EPSILON,
    FLD_EXCESS,
    NN_CHANCE,
    NN_P,
    NN_SHARE,
    PRECISION,
    RECALL,
)
from sweeps.report.captions import has_text
from sweeps.report.groups import NN_GAP, TUNED_KID, Group, label
from sweeps.report.stats import Estimate, verdict

Cell = str | int | float | Estimate | None
Metric = tuple[str, str]  # a column's title, and the metric in it

TABLES = (  # names of all that a report may have
    *("primary", "pretraining", "new_clients", "controls", "forgetting_and_cost", "prompts"),
    *("differences", "by_setting", "within_methods"),
    *("epochs", "prompt_epochs", "privacy", "settings", "runs", "parameters"),
)
PRETRAINING: tuple[Metric, ...] = (
    ("KID, last round", "final/pretrain_kid_mean"),
    ("KID, worst client", "final/pretrain_kid_worst"),
    ("KID, best round", "best/kid_mean"),
    ("best round", "best/round"),
    ("KID floor", "final/pretrain_kid_floor"),
    ("TV", "final/pretrain_tv_mean"),
    ("held-out", "final/pretrain_heldout_own"),
    ("held-out, zero", "final/pretrain_heldout_zero"),
    ("held-out, swapped", "final/pretrain_heldout_swapped"),
    ("KID, fine-tuned", TUNED_KID),
    ("TV, fine-tuned", "final/pretrain_tuned_tv_mean"),
    ("held-out, fine-tuned", "final/pretrain_tuned_heldout_own"),
    ("epsilon", CLIENTS_EPSILON),
    ("delta", CLIENTS_DELTA),
)
NEW_CLIENTS: tuple[Metric, ...] = (
    ("KID before", "final/adapt_kid_before"),
    ("KID after", "final/adapt_kid_after"),
    ("KID after, worst client", "final/adapt_kid_worst"),
    ("after / before", "final/adapt_kid_ratio"),
    ("KID floor", "final/adapt_kid_floor"),
    ("TV after", "final/adapt_tv_after"),
    ("TV floor", "final/adapt_tv_floor"),
    ("held-out after", "final/adapt_heldout_after"),
    ("NN train", "final/adapt_nn_train"),
    ("NN test", "final/adapt_nn_test"),
    ("NN train - test", NN_GAP),
    ("NN share", NN_SHARE),
    ("NN share, chance", NN_CHANCE),
    ("NN p", NN_P),
    ("FLD gap - fresh", FLD_EXCESS),
    ("precision", PRECISION),
    ("recall", RECALL),
    ("epsilon", EPSILON),
    ("delta", DELTA),
)
FORGETTING_AND_COST: tuple[Metric, ...] = (
    ("own", "final/adapt_forgetting_own"),
    ("global", "final/adapt_forgetting_global"),
    ("replaced", "final/adapt_forgetting_replaced"),
    ("trained parameters", "params/trainable_new_client"),
    ("seconds to fit one", "final/adapt_fit_duration_s"),
    ("seconds per new client", "final/adapt_duration_s"),
    ("kB up per client and round", "comm/up_kb_per_client_round"),
    ("MB sent in total", "comm/total_mb"),
    ("seconds per round", "time/round_s"),
)
PRIVACY: tuple[Metric, ...] = (
    ("|cos| of embeddings", "privacy/emb_cos"),
    ("|cos|, chance", "privacy/emb_cos_chance"),
    ("in the span of a sum", "privacy/emb_span"),
    ("in the span, others", "privacy/emb_span_others"),
    ("attack AUC", "privacy/mia_auc"),
    ("TPR at 1 % FPR", "privacy/mia_tpr"),
)
OF_EVERY_SETTING = {
    *("KID, last round", "KID, best round", "KID, fine-tuned"),
    *("KID before", "KID after", "after / before", "TV after", "held-out after"),
    *("own", "global", "replaced", "trained parameters", "seconds per new client"),
}
ALL_SETTINGS = tuple(
    metric
    for metric in (*PRETRAINING, *NEW_CLIENTS, *FORGETTING_AND_COST)
    if metric[0] in OF_EVERY_SETTING
)

CAPTIONS = {
    "pretraining": "KID of each client's samples against its own held-out images, or those of "
    "eval.reference, mean over clients and that of the worst client: after the last round, and at "
    "the round where the mean was lowest. Floor: real images against real ones. TV: distance "
    "between the classes drawn and the client's own mixture. Held-out: denoising loss on unseen "
    "images; with a zero embedding, and with another client's, it is higher where embeddings are "
    "used. Fine-tuned: after each client has trained what a new client would on its own images. "
    "Epsilon and delta: differential privacy of one client, where it has any.",
    "new_clients": "Before and after adaptation, mean over new clients, and the worst. Held-out: "
    "denoising loss on its unseen images. NN: distance of generated images, pixel by pixel, to "
    "the nearest "
    "training image and to the nearest of as many test images, and the first minus the second: "
    "clearly below zero speaks for memorisation. Share: of generated images, nearest to a training "
    "image out of all training and test images, and the share that chance gives; p: how often "
    "chance gives as much. FLD gap: how much likelier training images are than held-out ones, "
    "given the generated ones, less the same of fresh images; clearly below zero speaks for "
    "copies. Precision, recall: of all clients' images together. Epsilon and delta: differential "
    "privacy of one image of a new client, where it has any.",
    "forgetting_and_cost": "KID at the last epoch of adaptation: own = above its lowest so far; "
    "global = lost for existing clients; replaced = lost if only the adapted client is left. "
    "Seconds to fit one: of a new client's fit alone; per new client: to look at it as well, "
    "on one worker, on the machine and beside the work that it had. "
    "Bytes: those of pre-training; the total counts all clients and rounds, up and down.",
    "privacy": "Of runs that `spire audit` has seen. |cos|: an embedding against what the server "
    "computes from one message, by the best attack, median over clients; chance: the largest "
    "between two clients. Span: the share of an embedding's length that a cohort's sum shows. AUC "
    "and TPR: which images a new client was adapted to, told by the loss before minus after.",
    "settings": "Every method at every setting that was run.",
}


@dataclass(frozen=True)
class Table:
    """Columns by title, and rows of cells; `name` is that of its CSV file.

    `with_text`: the places of rows of tasks with captions.
    """

    name: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    with_text: frozenset[int] = frozenset()


HEAD = ("task", "method", "setting")
ID_CHARS = 8  # of a run's id in a table
COMPARED = ("minus SPIRE", "pairs", "verdict")


def made_table(
    name: str, title: str, caption: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]
) -> Table | None:
    """Return a table without the columns that are empty in every row; None without rows."""
    if not rows:
        return None
    shown = [i for i in range(len(columns)) if any(row[i] not in ("", None) for row in rows)]
    kept = tuple(tuple(row[i] for i in shown) for row in rows)
    return Table(name, title, caption, tuple(columns[i] for i in shown), kept)


def compared(difference: Estimate | None) -> tuple[Cell, Cell, Cell]:
    """Return the cells of a difference against SPIRE, under the titles of `COMPARED`.

    A single pair has no verdict.
    """
    if difference is None:
        return (None, None, None)
    told = None if difference.half_width is None else verdict(difference)
    return (difference, difference.num, told)


def cell_text(cell: Cell) -> str:
    """Return a cell as people read it: `0.55 ± 0.02`, or `-` for what is not known.

    The value stands alone, in three digits, where there is no interval; `(n=2)` follows where some
    seeds lack it.
    """
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return plain(cell)
    if not isinstance(cell, Estimate):
        return str(cell)
    count = f" (n={cell.num})" if cell.missing else ""
    if cell.half_width is None or cell.low == cell.high:
        return plain(cell.mean, 4 if cell.half_width is not None else 3) + count
    exponent = int(f"{cell.half_width:e}".partition("e")[2])
    decimals = min(max(1 - exponent, 0), 6)  # two digits of the interval
    return f"{cell.mean:.{decimals}f} ± {cell.half_width:.{decimals}f}{count}"


def plain(value: float, digits: int = 4) -> str:
    """Return a number to so many digits, or whole if it is or is large."""
    is_whole = value == round(value) or abs(value) >= 1000
    return f"{value:.0f}" if is_whole else f"{value:.{digits}g}"


def method_tables(groups: Sequence[Group]) -> list[Table | None]:
    """Return the three tables of methods, one row for each of these groups."""
    parts = (("pretraining", "Pre-training clients", PRETRAINING),)
    parts += (("new_clients", "New clients", NEW_CLIENTS),)
    parts += (("forgetting_and_cost", "Forgetting and cost", FORGETTING_AND_COST),)
    return [groups_table(name, title, groups, metrics) for name, title, metrics in parts]


def privacy_table(groups: Sequence[Group]) -> Table | None:
    """Return what audited runs give away, a row for each group that has any."""
    keys = [key for _, key in PRIVACY]
    audited = [g for g in groups if any(g.estimate(key) is not None for key in keys)]
    return groups_table("privacy", "What runs give away", audited, PRIVACY)


def settings_table(groups: Sequence[Group]) -> Table | None:
    """Return every method at every setting that was run."""
    return groups_table("settings", "All settings", groups, ALL_SETTINGS)


def groups_table(
    name: str, title: str, groups: Sequence[Group], metrics: Sequence[Metric]
) -> Table | None:
    """Return a row for each group, with those of the metrics that any group has."""
    rows = [(*head(g), len(g.runs), *(g.estimate(key) for _, key in metrics)) for g in groups]
    columns = (*HEAD, "n", *(text for text, _ in metrics))
    table = made_table(name, title, CAPTIONS[name], columns, rows)
    with_text = frozenset(i for i, group in enumerate(groups) if has_text([group]))
    return None if table is None else replace(table, with_text=with_text)


def head(group: Group) -> tuple[str, str, str]:
    """Return the cells that say which group a row is about, under the titles of `HEAD`."""
    return (label(group.task), group.method, label(group.setting))
