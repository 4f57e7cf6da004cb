"""The tables of a report as DataFrames of numbers, and their cells as people read them.

Columns of scores are named as in MLflow, without `final/pretrain_` and `final/adapt_`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from pipeline.evaluation.diagnosis import DIAGNOSIS
from pipeline.results.metric_names import CONTROL_NAMES, DELTA, EPSILON, NN_P
from sweeps.report.compare import COMPARED, FEW_SEEDS, half_interval, interval, score_of
from sweeps.report.runs import KEYS, SCORES

HALF, NUM = ": half interval", ": n"  # ends of the names of the columns beside a mean's
LEAST_P = 1e-4  # of a run's test of copies, by 9999 exchanges
P_VALUES = (NN_P, "nn_p")
PROMISES = (EPSILON, DELTA)  # of several, the one that holds
ID_CHARS = 8  # of a run's id
STAGE = r"^final/(pretrain|adapt)_"  # left out of the names of columns
PROMPTS = "prompt_accuracy|style_distance|retrieved|retrieval_rank|copied|shown_distance"
PROMPTS = rf"final/adapt_({PROMPTS})_(before|after|copies|mean_client|nearest_client)"
METRICS = {  # in these tables, by a pattern
    "pretraining": r"final/pretrain_.*|best/.*",
    "new_clients": rf"(?!{PROMPTS})final/adapt_.*",
    "cost": r"params/.*|comm/.*_(mb|round)|time/.*",
    "privacy": r"privacy/.*",
}
CAPTIONS = {  # of every table that a report may have; docs/report.md explains the columns
    "comparisons": "Written down before the sweep ran. Effect: mean of log(method / other), or "
    "method minus other, on the same seeds. p: Student's test. Holm: corrected for the number of "
    "comparisons. Equivalence: two one-sided tests against the margin, corrected as well.",
    "methods": "Each method at its best setting; interval: 95 %, over paired seeds.",
    "differences": "Each method against the other on the same seeds, at their best settings: a "
    "ratio, or a difference where a score is not above zero. One in twenty intervals misses by "
    "chance.",
    "pretraining": "KID against each client's own held-out images; floor: real images against real "
    "ones. Held-out: denoising loss on unseen images, also with a zero or another client's "
    "embedding.",
    "new_clients": "Means over new clients. NN: pixel distance to the nearest training or test "
    "image; share: nearest to a training image. Copies win neither FLD above fresh nor ELBO.",
    "cost": "Parameters, bytes and seconds.",
    "controls": "What new clients draw, beside images that no fit has drawn. Copies have a low "
    "KID, and show in NN and FLD. Fresh images are the scores of a perfect model.",
    "prompts": "Prompts that a new client never showed. Copied: nearer to a shown image than to "
    "the true one.",
    "privacy": "Promises, and what runs that spire audit has seen give away.",
    "settings": "Every method at every setting.",
    "runs": "State: the fingerprint of all weights at the end. Equal ones are equal runs.",
    "parameters": "Every setting of the runs, with each value that it has.",
}


def texts(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table's cells as people read them, without columns that say nothing."""
    hidden = [column for column in map(str, frame) if column.endswith((HALF, NUM))]
    hidden += ["effect", "half", "low", "high"] if "middle" in frame else []
    hidden += ["scale"] * (name == "methods")
    rows = frame.to_dict("records")
    shown = {
        "effect" if column == "middle" else column: [_text(row, column) for row in rows]
        for column in map(str, frame)
        if column not in hidden and frame[column].notna().any()
    }
    cells = pd.DataFrame(shown, dtype=object)
    return cells.loc[:, (cells != "").any()]


def _text(row: Mapping[Any, Any], name: str) -> str:
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
        is_whole = value == round(value) or abs(value) >= 1000
        return (f"{value:.0f}" if is_whole else f"{value:.3g}") + some
    decimals = min(max(1 - int(f"{half:e}".partition("e")[2]), 0), 6)  # two of the interval
    return f"{value:.{decimals}f} ± {half:.{decimals}f}{some}"


def means(runs: pd.DataFrame, columns: Mapping[str, str], by: Sequence[str] = KEYS) -> pd.DataFrame:
    """Return the mean over seeds of each metric that any run has, its interval and its n.

    `columns`: metrics by their title. Of several promises the one that holds for all is shown, and
    p-values are combined (Stouffer). A group without any of the metrics has no row.
    """
    known = {t: key for t, key in columns.items() if key in runs and runs[key].notna().any()}
    rows = []
    for keys, own in runs.groupby([*by], sort=False) if known else ():
        row: dict[str, Any] = {**dict(zip(by, keys, strict=True)), "n": len(own)}
        for name, key in known.items():
            values = own[key].astype(float).dropna()
            middle, half = values.mean(), half_interval(values)
            if key in PROMISES and values.nunique() > 1:
                middle, half = values.max(), np.nan
            elif key in P_VALUES and len(values):
                found: Any = stats.combine_pvalues(values.clip(LEAST_P, 1 - LEAST_P), "stouffer")
                middle, half = found.pvalue, np.nan
            row |= {name: middle, name + HALF: half, name + NUM: len(values)}
        if own[[*known.values()]].notna().any(axis=None):
            rows.append(row)
    return pd.DataFrame(rows)


def scores_frame(chosen: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return a table of `METRICS`, with KID before all other scores."""
    keys = sorted(key for key in map(str, chosen) if re.fullmatch(METRICS[name], key))
    columns = {re.sub(STAGE, "", key): key for key in keys}
    return means(chosen, dict(sorted(columns.items(), key=lambda one: "kid" not in one[0])))


def methods_frame(chosen: pd.DataFrame, told: pd.DataFrame) -> pd.DataFrame:
    """Return each method's score beside how it compares with the reference of its task."""
    frame = means(chosen, {words: key for key, words in SCORES.items()})
    if told.empty or frame.empty:
        return frame
    score = {task: score_of(own) for task, own in chosen.groupby("task")}
    names = ["task", "method", "against", "scale", "middle", "low", "high", "verdict"]
    first = told.loc[told.metric == told.task.map(score), names]
    return frame.merge(first, how="left", on=["task", "method"])


def controls_frame(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of each method's images and of its controls; `rows` of their tables."""
    if rows.empty:
        return rows
    names = {"adapted": "drawn after adaptation", **CONTROL_NAMES}
    rows = rows.assign(images=rows.control.map(names)).drop(columns=["control", "run_id"])
    keys = [*KEYS, "images"]
    return means(rows, {key: key for key in map(str, rows) if key not in (*keys, "seed")}, keys)


def prompts_frame(chosen: pd.DataFrame) -> pd.DataFrame:
    """Return the scores of prompts before and after adaptation, and of the controls."""
    found = [match for key in map(str, chosen) if (match := re.fullmatch(PROMPTS, key))]
    parts = [
        means(
            chosen.assign(images=state.replace("_", " ")),
            {match[1]: match[0] for match in found if match[2] == state},
            [*KEYS, "images"],
        )
        for state in dict.fromkeys(match[2] for match in found)
    ]
    return pd.concat(parts) if parts else pd.DataFrame()


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
