"""The tables of a report as DataFrames of numbers, and their cells as people read them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.evaluation.diagnosis import DIAGNOSIS
from pipeline.results.metric_names import (
    CLIENTS_DELTA,
    CLIENTS_EPSILON,
    CONTROL_NAMES,
    DELTA,
    EPSILON,
    FLD_EXCESS,
    NN_CHANCE,
    NN_P,
    NN_SHARE,
    PRECISION,
    RECALL,
    ROUND_S,
)
from sweeps.report.compare import COMPARED, FEW_SEEDS, interval, score_of
from sweeps.report.runs import KEYS, NN_GAP, SCORES, SENT_MB, TUNED_KID, UP_KB
from sweeps.report.statistics import HALF, NUM, combined_p, half_interval

PROMISES = (EPSILON, DELTA, CLIENTS_EPSILON, CLIENTS_DELTA)  # of several, the one that holds
ID_CHARS = 8  # of a run's id
Columns = Mapping[str, str]  # a column's title, and the metric in it

PRETRAINING = {
    "KID, last round": "final/pretrain_kid_mean",
    "KID, worst client": "final/pretrain_kid_worst",
    "KID, best round": "best/kid_mean",
    "best round": "best/round",
    "KID floor": "final/pretrain_kid_floor",
    "TV": "final/pretrain_tv_mean",
    "held-out": "final/pretrain_heldout_own",
    "held-out, zero": "final/pretrain_heldout_zero",
    "held-out, swapped": "final/pretrain_heldout_swapped",
    "KID, fine-tuned": TUNED_KID,
    "TV, fine-tuned": "final/pretrain_tuned_tv_mean",
    "held-out, fine-tuned": "final/pretrain_tuned_heldout_own",
    "epsilon": CLIENTS_EPSILON,
    "delta": CLIENTS_DELTA,
}
NEW_CLIENTS = {
    "KID before": "final/adapt_kid_before",
    "KID after": "final/adapt_kid_after",
    "KID after, worst client": "final/adapt_kid_worst",
    "after / before": "final/adapt_kid_ratio",
    "KID floor": "final/adapt_kid_floor",
    "TV after": "final/adapt_tv_after",
    "TV floor": "final/adapt_tv_floor",
    "held-out after": "final/adapt_heldout_after",
    "NN train": "final/adapt_nn_train",
    "NN test": "final/adapt_nn_test",
    "NN train - test": NN_GAP,
    "NN share": NN_SHARE,
    "NN share, chance": NN_CHANCE,
    "NN p": NN_P,
    "FLD gap - fresh": FLD_EXCESS,
    "precision": PRECISION,
    "recall": RECALL,
    "epsilon": EPSILON,
    "delta": DELTA,
}
FORGETTING_AND_COST = {
    "own": "final/adapt_forgetting_own",
    "global": "final/adapt_forgetting_global",
    "replaced": "final/adapt_forgetting_replaced",
    "trained parameters": "params/trainable_new_client",
    "seconds to fit one": "final/adapt_fit_duration_s",
    "seconds per new client": "final/adapt_duration_s",
    "kB up per client and round": UP_KB,
    "MB sent in total": SENT_MB,
    "seconds per round": ROUND_S,
}
PRIVACY = {
    "|cos| of embeddings": "privacy/emb_cos",
    "|cos|, chance": "privacy/emb_cos_chance",
    "in the span of a sum": "privacy/emb_span",
    "in the span, others": "privacy/emb_span_others",
    "attack AUC": "privacy/mia_auc",
    "TPR at 1 % FPR": "privacy/mia_tpr",
}
SETTINGS = {title: PRETRAINING[title] for title in ("KID, last round", "KID, fine-tuned")}
SETTINGS |= {
    title: NEW_CLIENTS[title] for title in ("KID before", "KID after", "TV after", "held-out after")
}
SETTINGS |= {title: FORGETTING_AND_COST[title] for title in ("own", "global", "trained parameters")}
PROMPTS = {
    "prompts read": "prompt_accuracy",
    "distance": "style_distance",
    "retrieved": "retrieved",
    "rank": "retrieval_rank",
    "copied": "copied",
    "distance to shown": "shown_distance",
}
PROMPT_STATES = {"before": "before", "after": "after", "copies": "copies"}
PROMPT_STATES |= {"mean_client": "mean client", "nearest_client": "nearest client"}
EPOCHS = {
    "KID": "adapt/kid/mean",
    "training loss": "adapt/train_loss",
    "held-out": "adapt/heldout/mean",
    "prompts read": "text/prompt_accuracy",
    "distance": "text/style_distance",
    "prompts forgotten": "forgetting/prompts",
}
CONTROL_SCORES = {
    "KID": "kid",
    "TV": "tv",
    "NN share": "nn_share",
    "chance": "nn_chance",
    "NN AUC": "nn_auc",
    "NN p": "nn_p",
    "FLD gap": "fld_gap",
    "precision": "precision",
    "recall": "recall",
}
TEXTS = {  # title and caption of every table that a report may have
    "comparisons": (
        "Comparisons of the sweep's file",
        "Written down before the sweep ran. Each method is at its best setting, on the same seeds. "
        "Effect: mean of log(method / other), or method minus other. p: Student's test. Holm: "
        "corrected for the number of the comparisons of a family. Equivalence: two one-sided tests "
        "against the margin, corrected as well.",
    ),
    "methods": ("Methods", "Each method at its best setting; interval: 95 %, over paired seeds."),
    "differences": (
        "Differences",
        "Each method against the other on the same seeds, at their best settings: a ratio, or a "
        "difference where a score is not above zero. One in twenty intervals misses by chance.",
    ),
    "pretraining": (
        "Pre-training clients",
        "KID against each client's own held-out images, or those of eval.reference. Floor: real "
        "images against real ones. TV: distance between the classes drawn and the client's own. "
        "Held-out: denoising loss on unseen images, also with a zero embedding and with another "
        "client's. Fine-tuned: after each client has trained what a new client would.",
    ),
    "new_clients": (
        "New clients",
        "Means over new clients. NN: pixel distance to the nearest training or test image; a "
        "difference clearly below zero is memorisation. NN share: nearest to a training image; p: "
        "how often chance gives as much. FLD gap below that of fresh images: copies. Epsilon, "
        "delta: differential privacy of one image of a new client.",
    ),
    "forgetting_and_cost": (
        "Forgetting and cost",
        "KID at the last epoch of adaptation. Own: above its lowest so far. Global: lost for "
        "existing clients. Replaced: lost if only the adapted client is left.",
    ),
    "controls": (
        "Controls of new clients",
        "What new clients draw, beside images that no fit has drawn. Copies have a low KID, and "
        "show in NN and FLD. Fresh images are the scores of a perfect model.",
    ),
    "prompts": (
        "Prompts of new clients",
        "Prompts that a new client never showed. Distance: to the true images. Retrieved: no other "
        "client's images are nearer. Copied: nearer to a shown image than to the true one. "
        "Copies, mean client and nearest client draw without a model.",
    ),
    "epochs": ("New clients along their epochs", "Each method at its best setting."),
    "privacy": (
        "What runs give away",
        "Of runs that spire audit has seen: an embedding against what the server computes from a "
        "message, and which images a new client was adapted to.",
    ),
    "settings": ("All settings", "Every method at every setting."),
    "runs": (
        "Runs",
        "State: the fingerprint of all weights at the end. Equal ones are equal runs.",
    ),
    "parameters": ("All parameters", "Every setting of the runs, with each value that it has."),
}


@dataclass(frozen=True)
class Table:
    """A DataFrame of numbers. A mean's columns are its own, and those of its interval and n."""

    name: str
    frame: pd.DataFrame

    @property
    def title(self) -> str:
        return TEXTS[self.name][0]

    @property
    def caption(self) -> str:
        return TEXTS[self.name][1]

    def texts(self) -> pd.DataFrame:
        """Return the cells as people read them, without columns that say nothing."""
        hidden = [name for name in map(str, self.frame) if name.endswith((HALF, NUM))]
        hidden += ["effect", "half", "low", "high"] if "middle" in self.frame else []
        hidden += ["scale"] * (self.name == "methods")
        shown = {
            "effect" if name == "middle" else name: [
                self._text(row, name) for row in self.frame.to_dict("records")
            ]
            for name in map(str, self.frame)
            if name not in hidden and self.frame[name].notna().any()
        }
        cells = pd.DataFrame(shown, dtype=object)
        return cells.loc[:, (cells != "").any()]

    def _text(self, row: Mapping[Any, Any], name: str) -> str:
        """Return `0.55 ± 0.02`; `-` is unknown; `(n=2)` follows where some seeds lack a value."""
        value, half = row[name], row.get(name + HALF, np.nan)
        if pd.isna(value):
            return "-"
        if not isinstance(value, float):
            return str(value)
        if name == "middle":
            return interval(row)
        num = row.get(name + NUM, np.nan)
        some = f" (n={num:.0f})" if num < row.get("n", 0) else ""
        if not half > 1e-9 * abs(value) or num < FEW_SEEDS:
            return plain(value) + some
        decimals = min(max(1 - int(f"{half:e}".partition("e")[2]), 0), 6)  # two of the interval
        return f"{value:.{decimals}f} ± {half:.{decimals}f}{some}"


def plain(value: float) -> str:
    """Return a number in three digits, or whole if it is or is large."""
    return f"{value:.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.3g}"


def means(runs: pd.DataFrame, columns: Columns, by: Sequence[str] = KEYS) -> pd.DataFrame:
    """Return the mean over seeds of each metric that any run has, its interval and its n.

    A group without any of them has no row.
    """
    known = {t: key for t, key in columns.items() if key in runs and runs[key].notna().any()}
    rows = []
    for keys, own in runs.groupby([*by], sort=False) if known else ():
        if own[[*known.values()]].isna().all(axis=None):
            continue
        row: dict[str, Any] = {**dict(zip(by, keys, strict=True)), "n": len(own)}
        for title, key in known.items():
            values = own[key].astype(float)
            row |= {title: values.mean(), title + HALF: half_interval(values)}
            if key in PROMISES and values.nunique() > 1:
                row |= {title: values.max(), title + HALF: np.nan}
            elif key in (NN_P, "nn_p"):
                from spire_core.evaluation.memorisation import NUM_EXCHANGES  # with torch

                row |= {title: combined_p(values, NUM_EXCHANGES), title + HALF: np.nan}
            row[title + NUM] = values.count()
        rows.append(row)
    return pd.DataFrame(rows)


def methods_frame(chosen: pd.DataFrame, told: pd.DataFrame) -> pd.DataFrame:
    """Return each method's score beside how it compares with the reference of its task."""
    names = [key for key in SCORES if key in chosen and chosen[key].notna().any()]
    frame = means(chosen, {SCORES[key]: key for key in names})
    if told.empty or frame.empty:
        return frame
    score = {task: score_of(own) for task, own in chosen.groupby("task")}
    names = ["task", "method", "against", "scale", "middle", "low", "high", "verdict"]
    first = told.loc[told.metric == told.task.map(score), names]
    return frame.merge(first, how="left", on=["task", "method"])


def differences_frame(told: pd.DataFrame) -> pd.DataFrame:
    """Return the differences with their metrics in words."""
    return told.assign(metric=told.metric.map(COMPARED))


def controls_frame(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of each method's images and of its controls; `rows` of their tables."""
    if rows.empty:
        return rows
    names = {"adapted": "drawn after adaptation", **CONTROL_NAMES}
    rows = rows.assign(images=rows["control"].map(names))
    return means(rows, CONTROL_SCORES, [*KEYS, "images"])


def prompts_frame(chosen: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of prompts before and after adaptation, and of the controls."""
    parts = []
    for state, name in PROMPT_STATES.items():
        columns = {title: f"final/adapt_{score}_{state}" for title, score in PROMPTS.items()}
        if state == "after":
            columns |= {"true": "final/adapt_true_accuracy"}
            columns |= {"forgotten": "final/adapt_forgetting_prompts"}
        part = means(chosen, columns)
        parts.append(part if part.empty else part.assign(images=name))
    found = pd.concat(parts)
    return (
        found
        if found.empty
        else found[[*KEYS, "images", *found.columns.difference([*KEYS, "images"], sort=False)]]
    )


def epochs_frame(curves: pd.DataFrame) -> pd.DataFrame:
    """Return scores of new clients after each number of epochs."""
    own = curves[curves.metric.isin(EPOCHS.values())]
    if own.step.nunique() < 2:
        return pd.DataFrame()
    wide = own.pivot_table(
        index=["run_id", *KEYS, "step"], columns="metric", values="value", sort=False
    )
    rows = wide.reset_index().rename(columns={"step": "epochs"})
    return means(rows.sort_values("epochs", kind="stable"), EPOCHS, [*KEYS, "epochs"])


def runs_frame(runs: pd.DataFrame) -> pd.DataFrame:
    """Return every run that was asked for, with the scores that others work with."""
    columns = {"run": "name", "id": "run_id", "status": "status", "method": "method"}
    columns |= {"seed": "seed", "state": "tags.state_fingerprint", "diagnosis": f"tags.{DIAGNOSIS}"}
    columns |= {"revision": "tags.git_revision"} | {v: k for k, v in COMPARED.items()}
    found = pd.DataFrame({title: runs[key] for title, key in columns.items() if key in runs})
    return found.assign(
        **{key: found[key].str[:ID_CHARS] for key in ("id", "state") if key in found}
    )


def parameters_frame(runs: pd.DataFrame) -> pd.DataFrame:
    """Return every setting of these runs with each value that it has."""
    keys = sorted(key for key in map(str, runs) if "." in key and not key.startswith("tags."))
    values = [" / ".join(map(str, runs[key].dropna().unique())) for key in keys]
    return pd.DataFrame({"parameter": keys, "value": values})
