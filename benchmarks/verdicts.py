"""Draws the figures of docs/results.md out of studies' rows.

    python -m benchmarks.verdicts

The first one has the primary comparisons of new clients: ratios alone, of scores of which the lower
one is better. A study joins with its rows. The second one has the single new clients of the world
that is about coverage, the third one scores over the length of pre-training, the fourth one what
longer fits buy and cost. What is drawn is written beside each figure, and a test works it out
again.
"""

import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from benchmarks.ended import ended
from benchmarks.fit_prices import OfFit, fits, prices_figure
from benchmarks.published import Published, study_rows
from benchmarks.published_scores import by_seed
from benchmarks.recompute import DOCS, findings_of, groups_of, lines_of
from pipeline.figures.style import png_bytes
from pipeline.files.atomic import write_whole
from spire_core.errors import DataError
from sweeps.report.client_coverage import ClientLine
from sweeps.report.coverage_dots import coverage_figure
from sweeps.report.forest import METHOD, OTHER, RATIO, Bar, bar_of, forest_figure
from sweeps.report.primary import Finding
from sweeps.report.regression import Point
from sweeps.report.seed_plots import Series, settings_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE = DOCS / "results" / "figures" / "verdicts.png"
BARS = FIGURE.with_suffix(".csv")
COVERAGE = FIGURE.with_name("coverage.png")
CLIENTS = COVERAGE.with_suffix(".csv")
LENGTH = FIGURE.with_name("length.png")
LENGTHS = LENGTH.with_suffix(".csv")
PRICES = FIGURE.with_name("fit_prices.png")
FITS = PRICES.with_suffix(".csv")
FT = "full fine-tuning"
NAMES: dict[str, dict[str, str]] = {  # of a comparison: by study, then by method and a setting
    "study-worlds-cpu": {
        "fedavg_ft, federation.num_clients=30": f"{FT}, one class each, all known",
        "fedavg_ft, federation.num_clients=135": f"{FT}, pairs, 44 of 48 known",
        "fedavg_ft, federation.num_clients=24": f"{FT}, pairs, 19 of 48 known",
        "fedavg_ft, federation.num_clients=96": f"{FT}, Dirichlet, none known",
    },
    "study-long-fits-cpu": {
        "fedavg_ft, adapt.epochs=96": f"{FT}, Dirichlet, 384 steps",
        "fedavg_ft, adapt.epochs=24": f"{FT}, Dirichlet, 96 steps again",
    },
    "study-few-images-cpu": {"fedavg_ft": f"{FT}, Dirichlet"},
    "study-styles-cpu": {"fedavg_ft": f"{FT}, tints"},
    "privacy-adapt-cpu": {
        "fedavg_ft, privacy.adapt.epsilon=8": f"{FT}, epsilon 8",
        "shared_rep, privacy.adapt.epsilon=8": "Shared-Rep, epsilon 8",
        "fedavg_ft, privacy.adapt.epsilon=1": f"{FT}, epsilon 1",
        "shared_rep, privacy.adapt.epsilon=1": "Shared-Rep, epsilon 1",
    },
    "fonts": {"fedavg_ft": f"{FT}, fonts, 4 glyphs"},
    "fonts-long": {"fedavg_ft": f"{FT}, fonts, longer, 4 glyphs"},
    "retrofit-cpu": {
        "lora": "LoRA, model without embeddings",
        "local": f"{FT}, model without embeddings",
    },
}
WORDS = {
    OTHER: "embeddings are ahead",
    METHOD: "the other method is ahead",
    "score: method / other": "score / score of embeddings (KID; fonts: distance to true glyphs)",
}
MEASURES = ("final/adapt_kid_after", "final/adapt_style_distance_after")
ROUNDS = "federation.num_rounds"
OF_LENGTH = (  # names, methods and scores
    ("SPIRE", "spire", "kid_after"),
    (FT, "fedavg_ft", "kid_after"),
    ("nearest old embedding", "spire", "kid_nearest_draws"),
)


@dataclass(frozen=True)
class OfLength:
    """A score after so many rounds of pre-training, mean and range over seeds."""

    name: str
    rounds: int
    mean: float
    lowest: float
    highest: float


def bars_of(study: str) -> list[Bar]:
    """Return the named comparisons of a study; DataError for one without an interval."""
    rows = study_rows(DOCS / "results" / study)
    return drawn(study, findings_of(study, groups_of(rows)))


def worded(bars: Sequence[Bar]) -> list[Bar]:
    """Return bars with the verdicts of the figure's legend, as they stand in its table."""
    return [replace(bar, verdict=WORDS.get(bar.verdict, bar.verdict)) for bar in bars]


def drawn(study: str, found: Sequence[Finding]) -> list[Bar]:
    """Return the bars of those findings that the figure is about."""
    bars = list[Bar]()
    for one in filter(is_shown, found):
        bar = bar_of(one, name_of(study, one))
        if bar is None:
            raise DataError(
                f"expected an interval of each comparison in the first figure of results.md, got "
                f"none of {study}, {one.primary.words}: it has no pairs, one, or a score that is "
                "not above zero, so say so on the page and leave its study out of the figure"
            )
        bars.append(replace(bar, measure="score"))
    return bars


def is_shown(one: Finding) -> bool:
    """Return whether the figure is about a comparison: a ratio of a score of new clients."""
    return one.primary.measure in MEASURES and one.primary.scale == RATIO


def studies() -> list[str]:
    """Return the studies of the figure that have rows."""
    return [study for study in NAMES if (DOCS / "results" / study / "rows.csv").is_file()]


def name_of(study: str, found: Finding) -> str:
    """Return a comparison's name, with its number of images where a study has several."""
    settings = [f"{key}={value}" for key, value in found.primary.where.items()]
    heads = [found.primary.method] + [f"{found.primary.method}, {one}" for one in settings]
    name = next((NAMES[study][head] for head in heads if head in NAMES[study]), "")
    if not name:
        raise DataError(f"expected a name in {__file__} for {study}, {', '.join(heads)}, got none")
    images = dict(found.task).get("adapt.num_images")
    if images is None or study.startswith("fonts"):
        return name
    return f"{name} ({images} {'image' if str(images) == '1' else 'images'})"


def covered_clients() -> ClientLine:
    """Return the new clients of the world of whom some are covered and some far from it."""
    rows = study_rows(DOCS / "results" / "study-worlds-cpu")
    [line] = [one for one in lines_of(groups_of(rows), rows) if "num_clients=24," in one.task]
    return line


def lengths() -> list[OfLength]:
    """Return KID of new clients over the length of pre-training.

    Each method stands at the rate with the lowest mean after as many rounds, of those with the most
    seeds.
    """
    rows = study_rows(DOCS / "results" / "study-length-cpu")
    points = list[OfLength]()
    for name, method, score in OF_LENGTH:
        pairs = {(int(r[ROUNDS]), r["adapt.lr"]) for r in rows if r["method"] == method}
        rates: dict[int, list[list[float]]] = {}
        for num_rounds, rate in sorted(pairs):
            where = f"{ROUNDS}={num_rounds};adapt.lr={rate}"
            own = by_seed(rows, Published("", "", "", "mean", score, method, where=where))
            rates.setdefault(num_rounds, []).append(list(own.values()))
        for num_rounds, of_rates in rates.items():
            kids = min(of_rates, key=lambda kids: (-len(kids), fmean(kids)))
            points.append(OfLength(name, num_rounds, fmean(kids), min(kids), max(kids)))
    return points


def length_figure(points: Sequence[OfLength]) -> "Figure":
    """Return these scores, a line for each name."""
    lines = []
    for style, (name, _, _) in enumerate(OF_LENGTH):
        own = [(p.rounds, p.mean, p.lowest, p.highest) for p in points if p.name == name]
        lines.append(Series(name, style, tuple(own)))
    return settings_figure(lines, "rounds of pre-training", "KID of new clients", "log2")


def main(words: Sequence[str]) -> int:
    """Draw the figures, and return the exit code."""
    if words:
        print(__doc__, file=sys.stderr)
        return 2
    bars = [bar for study in studies() for bar in bars_of(study)]
    write_table(BARS, worded(bars))
    write_whole(FIGURE, png_bytes(forest_figure(bars, WORDS)))
    line = covered_clients()
    write_table(CLIENTS, line.points)
    names = {"spire": "SPIRE", "fedavg_ft": FT}
    write_whole(COVERAGE, png_bytes(coverage_figure([line], names=names)))
    points = lengths()
    write_table(LENGTHS, points)
    write_whole(LENGTH, png_bytes(length_figure(points)))
    found = fits()
    write_table(FITS, found)
    write_whole(PRICES, png_bytes(prices_figure(found)))
    for figure in (FIGURE, COVERAGE, LENGTH, PRICES):
        print(figure.relative_to(DOCS.parent))
    return 0


def write_table(path: Path, rows: Sequence[Bar | Point | OfLength | OfFit]) -> None:
    """Write what a figure shows, a line each."""
    table = io.StringIO()
    names = [field.name for field in fields(rows[0])]
    writer = csv.DictWriter(table, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, rows))
    write_whole(path, table.getvalue().encode())


if __name__ == "__main__":
    sys.exit(ended(lambda: main(sys.argv[1:])))
