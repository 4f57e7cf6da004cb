"""Recompute each number of a study on docs/results.md from the rows in sweeps/studies.

    python -m benchmarks.results [--write]

The page marks numbers as <!--PAIR:WHAT-->NUMBER<!--/-->: all with decimals, but in code and links.
"""

import functools
import re
import sys
from pathlib import Path
from typing import Any  # frames and series: pandas has no types of its own

import pandas as pd
import yaml

from sweeps.primary import primaries
from sweeps.report import compare

ROOT = Path(__file__).parents[1]
STUDIES, PAGE = ROOT / "sweeps" / "studies", ROOT / "docs" / "results.md"
PAIRS = yaml.safe_load((STUDIES / "pairs.yaml").read_text())
FAMILIES = (["one", "pairs", "few-pairs", "mixtures", "contrast"], ["again", "long"], ["tints"])
OLD = ("kid", "old_fld", "old_nn_excess")  # scores of old clients
CONTRAST = ("known", "unknown")
CROSSING = {0.0: "crossing", 3.0e-4: "crossing-pull"}  # pairs, by the weight of the pull
MARK = re.compile(r"<!--([\w-]+):([\w.]+)-->(.*?)<!--/-->")
FREE = re.compile(r"`[^`]*`|\]\([^)]*\)")  # code and links


@functools.cache
def rows(study: str) -> Any:
    """Return a study's rows, with the share of copies above chance, and who is covered."""
    found = pd.read_parquet(STUDIES / f"{study}.parquet")
    more = found.reindex(columns=["nn_share", "nn_chance", "hull_tv", "fld_above_fresh"])
    excess = more.nn_share - more.nn_chance
    covered = (more.hull_tv < 0.05).astype("str")  # by old clients: their mixtures span its own
    old = {"old_fld": more.fld_above_fresh, "old_nn_excess": excess}
    return found.assign(nn_excess=excess, covered=covered, **old)


@functools.cache
def score(pair: str, side: str, measure: str) -> Any:
    """Return a measure of a pair's fit, a or b, by seed: means over clients."""
    if measure == "gain":  # loss on images that a client did not show: after its fit by before it
        return score(pair, side, "heldout_after") / score(pair, side, "heldout_before")
    study, common, *methods = PAIRS[pair]
    method, *settings = f"{methods['ab'.index(side)]} {common}".split()
    clients = "pretraining" if measure in OLD else "new"
    settings += [f"method={method}", f"clients={clients}"]
    own = rows(study)
    for key, sign, to in re.findall(r"(\S+?)(!?=)(\S+)", " ".join(settings)):
        own = own[(own[key] == to) == (sign == "=")]
    assert not own.duplicated(["seed", "partition_hash", "client_id"]).any(), (pair, side)
    return own[measure].astype(float).groupby([own.seed, own.partition_hash]).mean()


def effect(pair: str, measure: str = "kid_after", scale: str = "ratio", limit: float = 1) -> Any:
    """Return how the scores of a pair's fits differ, as `sweeps.report.compare.paired` does."""
    if pair == "contrast":  # is the ratio another one for clients whose pair of classes is known?
        known, unknown = (score(of, "a", measure) / score(of, "b", measure) for of in CONTRAST)
        return compare.paired(known, unknown, scale)
    return compare.paired(score(pair, "a", measure), score(pair, "b", measure), scale, limit)


def holm(pair: str) -> float:
    """Return the p-value of a pair's KIDs, corrected for the size of its family."""
    [family] = [family for family in FAMILIES if pair in family]
    return compare.holm([effect(of)["p"] for of in family])[family.index(pair)]


@functools.cache
def verdicts() -> dict[tuple[str, str], str]:
    """Return where several embeddings stand in each comparison of crossing-cpu.yaml, after Holm."""
    found = {}
    for one in primaries(yaml.safe_load((STUDIES / "crossing-cpu.yaml").read_text())["primary"]):
        of = CROSSING[one.where["adapt.pull"]], one.measure.removeprefix("final/adapt_")
        found[of] = effect(*of, one.scale, one.limit)
    differ, match = (compare.holm([row[p] for row in found.values()]) for p in ("p", "match"))
    words = dict[tuple[str, str], str]()
    for of, p, level in zip(found, differ, match, strict=True):
        words[of] = "level" if level < compare.LEVEL else "open"
        if p < compare.LEVEL:
            words[of] = "ahead" if found[of]["effect"] > 0 else "behind"
    return words


@functools.cache
def value(pair: str, what: str) -> str:
    """Return a number or a word as it is printed.

    MEASURE: a ratio; by.MEASURE: a difference; both with intervals. a.MEASURE, b.MEASURE: a score.
    minus.MEASURE: the difference of scores. verdict.MEASURE, better, seeds.
    """
    if what == "better":
        leader = "SPIRE" if effect(pair)["effect"] > 0 else "full fine-tuning"
        return leader if holm(pair) < compare.LEVEL else "neither"
    side, _, measure = what.rpartition(".")
    if measure == "seeds":
        return str(len(score(pair, "b", "num_train")))
    if side == "verdict":
        return verdicts()[pair, measure]
    if side == "minus":
        mean = (score(pair, "a", measure) - score(pair, "b", measure)).mean()
        return f"{mean:+.2f}".replace("-0.00", "+0.00")
    if side in ("a", "b"):
        mean = score(pair, side, measure).mean()
        return f"{mean:,.0f}" if mean >= 100 else f"{mean:.2f}"
    row = effect(pair, measure, "difference" if side else "ratio")
    middle, low, high = (f"{row[end]:{'+' * bool(side)}.2f}" for end in ("middle", "low", "high"))
    return f"{middle} [{low}, {high}]"


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
