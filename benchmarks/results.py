"""Recompute each number of a study on docs/results.md from the rows in sweeps/studies.

    python -m benchmarks.results [--write]

The page marks numbers as <!--PAIR:WHAT-->NUMBER<!--/-->: all with decimals, but in code and links.
"""

import functools
import re
import sys
from pathlib import Path
from typing import Any  # frames and series: pandas has no types of its own

import numpy as np
import pandas as pd
import yaml
from scipy import stats

ROOT = Path(__file__).parents[1]
STUDIES, PAGE = ROOT / "sweeps" / "studies", ROOT / "docs" / "results.md"
PAIRS = yaml.safe_load((STUDIES / "pairs.yaml").read_text())
FAMILIES = (["one", "pairs", "few-pairs", "mixtures", "contrast"], ["again", "long"], ["tints"])
MARK = re.compile(r"<!--([\w-]+):([\w.]+)-->(.*?)<!--/-->")
FREE = re.compile(r"`[^`]*`|\]\([^)]*\)")  # code and links


@functools.cache
def rows(study: str) -> Any:
    """Return a study's rows, with the share of copies above chance, and who is covered."""
    found = pd.read_parquet(STUDIES / f"{study}.parquet")
    more = found.reindex(columns=["nn_share", "nn_chance", "hull_tv"])
    covered = (more.hull_tv < 0.05).astype("str")  # by old clients: their mixtures span its own
    return found.assign(excess=more.nn_share - more.nn_chance, covered=covered)


@functools.cache
def score(pair: str, side: str, measure: str) -> Any:
    """Return a measure of a pair's fit, a or b, by seed: means over clients."""
    if measure == "gain":  # loss on images that a client did not show: after its fit by before it
        return score(pair, side, "heldout_after") / score(pair, side, "heldout_before")
    study, common, *methods = PAIRS[pair]
    method, *settings = f"{methods['ab'.index(side)]} {common}".split()
    settings += [f"method={method}", f"clients={'pretraining' if measure == 'kid' else 'new'}"]
    own = rows(study)
    for key, sign, to in re.findall(r"(\S+?)(!?=)(\S+)", " ".join(settings)):
        own = own[(own[key] == to) == (sign == "=")]
    assert not own.duplicated(["seed", "partition_hash", "client_id"]).any(), (pair, side)
    return own[measure].astype(float).groupby([own.seed, own.partition_hash]).mean()


def effect(pair: str, measure: str = "kid_after") -> Any:
    """Return the logarithm of the ratio of a pair's scores, by seed."""
    if pair == "contrast":  # is the ratio another one for clients whose pair of classes is known?
        return (effect("known") - effect("unknown")).dropna()  # a seed may have one kind alone
    return np.log(score(pair, "a", measure) / score(pair, "b", measure))


def holm(pair: str) -> float:
    """Return the p-value of a pair's KIDs, corrected for the size of its family."""
    [family] = [family for family in FAMILIES if pair in family]
    p: Any = {key: stats.ttest_1samp(effect(key), 0)[1] for key in family}
    order = sorted(family, key=lambda key: p[key])
    corrected = [p[key] * (len(order) - place) for place, key in enumerate(order)]
    return min(1.0, max(corrected[: order.index(pair) + 1]))


@functools.cache
def value(pair: str, what: str) -> str:
    """Return a MEASURE's ratio, a.MEASURE, minus.MEASURE, seeds or better, as it is printed."""
    if what == "better":
        leader = "SPIRE" if effect(pair).mean() > 0 else "full fine-tuning"
        return leader if holm(pair) < 0.05 else "neither"
    side, _, measure = what.rpartition(".")
    if measure == "seeds":
        return str(len(score(pair, "b", "steps")))
    if side == "minus":
        mean = (score(pair, "a", measure) - score(pair, "b", measure)).mean()
        return f"{mean:+.2f}".replace("-0.00", "+0.00")
    if side:
        mean = score(pair, side, measure).mean()
        return f"{mean:,.0f}" if mean >= 1000 else f"{mean:.2f}"
    logs = effect(pair, what)
    low, high = np.exp(stats.ttest_1samp(logs, 0).confidence_interval())
    return f"{np.exp(logs.mean()):.2f} [{low:.2f}, {high:.2f}]"


def faults(page: str) -> list[str]:
    """Return what differs from the rows, and each number with decimals that has no mark."""
    found = [(f"{pair}:{what}", value(pair, what), text) for pair, what, text in MARK.findall(page)]
    wrong = [f"{mark} is {now}, not {text}" for mark, now, text in found if text != now]
    unmarked = re.findall(r".{0,20}\d\.\d.{0,20}", FREE.sub("", MARK.sub("", page)))
    return [*wrong, *(f"no mark at {text!r}" for text in unmarked)]


if __name__ == "__main__":
    text = PAGE.read_text()
    if "--write" in sys.argv:
        text = MARK.sub(lambda m: f"<!--{m[1]}:{m[2]}-->{value(m[1], m[2])}<!--/-->", text)
        PAGE.write_text(text)
    sys.exit("\n".join(faults(text)) or None)
