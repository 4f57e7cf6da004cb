"""Comparisons of experiments: best settings, methods, axes, and what a sweep's file wrote down.

All functions work on the DataFrame of `sweeps.report.runs.experiments`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import stdtrit

from pipeline.results import metric_names as names
from sweeps.primary import HELDOUT, KIDS, MEASURES, TUNED_KID, Primary
from sweeps.report.runs import DISTANCE, SCORES, UNSET, sortable, varying

REFERENCE = "spire"
TAU, LOCAL_EPOCHS = "federation.tau", "federation.local_epochs"
LEVEL = 0.05  # of tests; intervals have the rest
FEW_SEEDS = 3  # fewer tell nothing
HIGHER_IS_BETTER = ("final/adapt_prompt_accuracy_after", "final/adapt_retrieved_after")
HIGHER_IS_BETTER += (names.PRECISION, names.RECALL)
NO_CHOICE = ("final/adapt_forgetting_global", names.NN_EXCESS)  # nobody chooses a setting by these
NO_CHOICE += (names.NN_SHARE, names.COVERED_RATIO)
SAME = "no difference was found"
COMPARED = {  # in the table of differences, and the metric in words
    **{key: MEASURES[key] for key in (names.FLD, names.ELBO, names.NOVEL_KID)},  # no copies win
    **{key: MEASURES[key] for key in ("final/adapt_kid_after", "final/adapt_tv_after", HELDOUT)},
    **{key: MEASURES[key] for key in ("final/pretrain_kid_mean", names.OLD_FLD, TUNED_KID)},
    DISTANCE: MEASURES[DISTANCE],
    "final/adapt_prompt_accuracy_after": MEASURES["final/adapt_prompt_accuracy_after"],
    "final/adapt_retrieved_after": "new clients' own images retrieved",
    "final/adapt_copied_after": "new clients' images copied",
}


# --- statistics -----------------------------------------------------------------------------------


def half_interval(values: pd.Series) -> float:
    """Return half of the 95 % interval of a mean, t s / sqrt(n) (Student); NaN of one value."""
    num, error = values.count(), float(np.asarray(values.sem()))
    return float(stdtrit(num - 1, 1 - LEVEL / 2)) * error if num > 1 else np.nan


def paired(
    theirs: pd.Series, ours: pd.Series, scale: str = "", limit: float = np.nan
) -> dict[str, Any]:
    """Return how scores differ on the pairs that both have, as the cells of a row.

    With the scale "ratio" the effect is the mean of log(theirs / ours), and low, middle and high
    are ratios; with "difference" it is theirs - ours. Without a scale it is the ratio if all scores
    are above zero. p: Student's test of no effect. match: two one-sided tests (Schuirmann 1987) of
    one beyond +-`limit`. Without two pairs there is neither, nor a ratio of scores below zero.
    """
    both = pd.concat({"theirs": theirs, "ours": ours}, axis=1, join="inner").dropna()
    has_ratio = bool((both > 0).all(axis=None))
    scale = scale or ("ratio" if has_ratio else "difference")
    row: dict[str, Any] = {"scale": scale, "n": len(both)}
    if both.empty or (scale == "ratio" and not has_ratio):
        return row
    logs = both.apply(np.log) if scale == "ratio" else both
    effect, back = logs["theirs"] - logs["ours"], np.exp if scale == "ratio" else float
    row |= {"effect": effect.mean(), "middle": back(effect.mean())}
    if len(effect) < 2:
        return row
    half = half_interval(effect)
    row |= {"half": half, "low": back(row["effect"] - half), "high": back(row["effect"] + half)}
    if effect.nunique() == 1:  # of pairs that all differ alike there is no doubt
        alike = effect.iloc[0]
        return row | {"p": float(alike == 0), "match": float(abs(alike) >= limit)}
    test: Any = stats.ttest_1samp
    below = test(effect, limit, alternative="less").pvalue
    above = test(effect, -limit, alternative="greater").pvalue
    return row | {"p": test(effect, 0).pvalue, "match": max(below, above)}


def holm(values: Any) -> np.ndarray:
    """Return p-values corrected for their number (Holm 1979); NaN counts, and stays."""
    p = np.asarray(values, float)
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return corrected


# --- best settings --------------------------------------------------------------------------------


def score_of(runs: pd.DataFrame) -> str:
    """Return the metric by which runs of one task choose: the first of `SCORES` that they have."""
    return next((key for key in SCORES if runs[key].notna().any()), HELDOUT)


def best_settings(
    runs: pd.DataFrame, metric: str = "", by: Sequence[str] = ("task", "method")
) -> pd.DataFrame:
    """Return the runs at the best setting of each group: of each method in each task.

    It has the best mean of the metric (default: `score_of` the task), out of the settings with
    the most seeds, over the seeds that these share, or over their own if they share none.
    """
    metrics = {task: metric or score_of(own) for task, own in runs.groupby("task")}
    chosen = [
        own[own.setting == _best(own, metrics[own.task.iloc[0]])]
        for _, own in runs.groupby([*by], sort=False)
    ]
    return pd.concat(chosen) if chosen else runs


def _best(runs: pd.DataFrame, metric: str) -> str:
    """Return the best setting of one method's runs."""
    if metric not in runs or runs[metric].isna().all():
        return runs.setting.iloc[0]
    scores = runs.pivot_table(metric, index="pair", columns="setting", dropna=False, sort=False)
    most = scores.loc[:, scores.count() == scores.count().max()]
    means = (most if most.dropna().empty else most.dropna()).mean()
    return str(means.idxmax() if metric in HIGHER_IS_BETTER else means.idxmin())


def by_pair(runs: pd.DataFrame, metric: str) -> pd.Series:
    """Return a metric of one group's runs by seed and partition."""
    values = runs[metric] if metric in runs else pd.Series(np.nan, runs.index)
    return values.set_axis(runs.pair)


def reference_of(chosen: pd.DataFrame) -> str:
    """Return the method that others are compared with in a task: SPIRE, or the one ahead."""
    means = chosen.groupby("method", sort=False)[score_of(chosen)].mean().dropna()
    return REFERENCE if REFERENCE in {*chosen.method} or means.empty else str(means.idxmin())


def differences(chosen: pd.DataFrame, metrics: Sequence[str] = tuple(COMPARED)) -> pd.DataFrame:
    """Return each method against the reference of its task, metric by metric, paired on seeds.

    `chosen`: each method's runs at its best setting. With captions KID orders nothing.
    """
    rows = []
    for task, here in chosen.groupby("task", sort=False):
        reference, has_text = reference_of(here), score_of(here) == DISTANCE
        ours = here[here.method == reference]
        for method, theirs in here[here.method != reference].groupby("method", sort=False):
            for metric in (one for one in metrics if not (has_text and one in KIDS)):
                row = paired(by_pair(theirs, metric), by_pair(ours, metric))
                if row["n"]:
                    head = {"task": task, "method": method, "against": reference, "metric": metric}
                    rows.append(head | row | {"verdict": verdict(row, metric)})
    columns = ["task", "method", "against", "metric", "scale", "n", "effect", "half"]
    return pd.DataFrame(rows, columns=[*columns, "middle", "low", "high", "p", "verdict"])


def verdict(row: dict, metric: str) -> str:
    """Return `better` or `worse` where an interval excludes no effect, else that none was found.

    Nothing is said of few seeds.
    """
    if row["n"] < FEW_SEEDS or "half" not in row:
        return ""
    if abs(row["effect"]) <= row["half"]:
        return SAME
    return "better" if (row["effect"] < 0) != (metric in HIGHER_IS_BETTER) else "worse"


def axes(runs: pd.DataFrame) -> list[str]:
    """Return the settings that vary. Of several that always move together, it is tau or the first.

    Local epochs have their place on the axis of tau, where there is one.
    """
    found: list[str] = []
    for key in sorted(varying(runs), key=lambda key: key != TAU):
        pairs = [
            pd.DataFrame({0: places(runs, one), 1: places(runs, key)}).dropna().drop_duplicates()
            for one in found
        ]
        if not any(len(p) == p[0].nunique() == p[1].nunique() for p in pairs):
            found.append(key)
    return [key for key in found if key != LOCAL_EPOCHS or TAU not in found]


def places(runs: pd.DataFrame, key: str) -> pd.Series:
    """Return the places of runs on the axis of a setting; tau's has epochs beside steps."""
    at = runs[key]
    if key == TAU:
        at = at.where(at != UNSET, "local_epochs=" + runs[LOCAL_EPOCHS].astype(str))
    return at


def along(runs: pd.DataFrame, key: str) -> pd.DataFrame:
    """Return each method's runs at each value of a setting, at the best of its other settings.

    The column `at` has the value, in order. `None` is no place among numbers.
    """
    at = places(runs, key)
    if pd.to_numeric(at, errors="coerce").notna().any():
        at = at.where(at != UNSET)
    chosen = best_settings(runs.assign(at=at)[at.notna()], by=("task", "method", "at"))
    return chosen.sort_values("at", key=sortable, kind="stable")


def axis_sentence(here: pd.DataFrame) -> str:
    """Return where on an axis each method is best, and how much worse its worst place is."""
    score, told = score_of(here), []
    for method, own in here.groupby("method", sort=False):
        means = own.groupby("at", sort=False)[score].mean().dropna()
        if len(means) < 2:
            continue
        best, worst = means.idxmin(), means.idxmax()
        at_worst, at_best = (by_pair(own[own["at"] == place], score) for place in (worst, best))
        row = paired(at_worst, at_best)
        told.append(f"{method} at {best} ({worst}: {effect(row)})")
    return f"Best: {', '.join(told)}." if told else "No method has a score at two values of it."


def method_sentence(here: pd.DataFrame) -> str:
    """Return which method of one task is ahead by its score, by how much, and how sure that is."""
    score = score_of(here)
    common = here.pivot_table(index="pair", columns="method", values=score, sort=False).dropna()
    means = common.mean().sort_values()
    if len(means) < 2 or common.empty:
        return f"{SCORES[score]}: no seed has two methods to compare." if len(means) > 1 else ""
    text = f"{means.index[0]} is ahead with a {SCORES[score]} of {means.iloc[0]:#.3g}."
    rows = differences(here, [score])
    told = [
        f"{row.method} {effect(row.to_dict())}{f', {row.verdict}' * bool(row.verdict)}"
        for _, row in rows.iterrows()
    ]
    if not told:
        return text
    return f"{text} Against {rows.against[0]} on the same seeds: {'; '.join(told)}."


def effect(row: Mapping[Any, Any]) -> str:
    """Return a paired effect in words, such as `1.31 [1.10, 1.56] times as high`."""
    if pd.isna(row.get("middle")):
        return "cannot be compared"
    return interval(row) + " times as high" * (row["scale"] == "ratio")


def interval(row: Mapping[Any, Any]) -> str:
    """Return a paired effect with its interval, which few seeds do not have."""
    sign = "" if row["scale"] == "ratio" else "+"
    middle, low, high = (
        f"{row.get(end, np.nan):{sign}#.3g}".rstrip(".") for end in ("middle", "low", "high")
    )
    return f"{middle} [{low}, {high}]" if row["n"] >= FEW_SEEDS else middle


def comparisons(recorded: Sequence[Primary], runs: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each comparison that a sweep's file wrote down, in each task that has it.

    Both sides stand at their best setting by the compared measure, or by the score of
    the other tables if nobody would choose by it. p-values are corrected for the number of the
    comparisons of a family; one without runs counts.
    """
    params: list[Any] = runs.to_dict("records")
    rows = []
    for one in recorded:
        by = "" if one.measure in NO_CHOICE else one.measure
        sides = [
            best_settings(runs[[one.fits(method, row) for row in params]], by)
            for method in (one.method, one.against)
        ]
        for task in [*pd.concat(sides).task.drop_duplicates()] or [""]:
            row = {"task": task, "comparison": one.words, "family": one.family, "n": 0}
            scores, others = (by_pair(side[side.task == task], one.measure) for side in sides)
            rows.append(row | {"margin": one.margin} | paired(scores, others, one.scale, one.limit))
    columns = ["task", "comparison", "family", "scale", "n", "effect", "half"]
    columns += ["middle", "low", "high", "p", "margin", "match"]
    found = pd.DataFrame(rows, columns=columns)
    for p, corrected in (("p", "Holm"), ("match", "equivalence")):
        found[corrected] = found.groupby("family")[p].transform(lambda own: holm(own.astype(float)))
    found["verdict"] = [
        ", ".join(
            ["lower" if row["effect"] < 0 else "higher"] * (row["Holm"] < LEVEL)
            + ["matches"] * (row["equivalence"] < LEVEL)
        )
        or ("" if row["n"] < 2 else SAME)
        for row in found.to_dict("records")
    ]
    return found.drop(columns="match")
