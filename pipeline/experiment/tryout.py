"""A first try on a folder of images: settings out of the folder, and a page of what is drawn."""

import html
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.cluster.actor_plan import most_useful_actors, plan_on_nodes, present_nodes
from pipeline.config.load import load_config, write_value
from pipeline.config.meaning import pretrain_fingerprint
from pipeline.config.schema import Config
from pipeline.data.arrays import FACTOR, METADATA
from pipeline.data.image_folder import client_rows, image_base, listed_rows, opened_rgb
from pipeline.experiment.estimate import run_seconds
from pipeline.figures.image_grids import image_grid, inline
from pipeline.inference.saved_run import SavedRun
from pipeline.results.result import Result
from pipeline.runs.layout import PAGE
from spire_core.config.checks import hint, require
from spire_core.errors import ConfigError, DataError

PRESET = "folder-cpu"
FEWEST = 8  # images of a person, half of them to measure on
FEW_KINDS = 6  # up to so many, each simulated client has images of one kind alone
LARGEST, SMALLEST = 32, 8  # pixels of a side
NUM_SHOWN, NUM_DRAWN, COLUMNS = 24, 16, 4  # people of the page, images of each, side by side
STYLE = """body {font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem;
padding: 0 1rem; color: #222} section {display: flex; flex-wrap: wrap; gap: 1rem 2rem;
border-top: 1px solid #ddd; padding: 1rem 0} h2, section p {width: 100%; margin: 0}
figure {margin: 0; flex: 1 1 12rem; max-width: 18rem} img {width: 100%; image-rendering: pixelated}
figcaption {color: #555} pre {background: #f4f4f4; padding: .8rem; white-space: pre-wrap;
overflow-wrap: anywhere}"""


@dataclass(frozen=True)
class Seen:
    """What a folder holds: the number of images by the name of a person or a kind.

    `are_owners` is None where the folder does not tell which of the two a name is.
    """

    folder: Path
    counts: Mapping[str, int]
    side: int  # in pixels, of images as they are trained on
    are_owners: bool | None

    @property
    def text(self) -> str:
        """The sentence about it."""
        what = {True: "people", False: "kinds of images", None: "subfolders"}[self.are_owners]
        listed = ", ".join(f"{name} ({num})" for name, num in self.counts.items())
        return f"{self.folder.name}: {len(self.counts)} {what}: {listed:.400}"


def look(folder: str | Path, are_owners: bool | None = None, new: str | None = None) -> Seen:
    """Return what a folder holds; DataError for a folder without images below subfolders.

    A table that lists images with their clients, or the name of a `new` person, tells what it is.
    ConfigError for such a name among kinds of images.
    """
    expected = "--new with people"
    require(new is None or are_owners is not False, expected, "--classes", "leave one out")
    base = image_base(folder)
    if (base / METADATA).is_file():
        rows, are_owners = listed_rows(base, METADATA, "client", "caption"), True
    else:
        rows, are_owners = client_rows(base), True if new is not None else are_owners
    some = rows[:: max(1, len(rows) // 20)]
    sides = [min(opened_rgb(base / row.path).size) for row in some]
    side = min(int(np.median(sides)) // FACTOR * FACTOR, LARGEST)
    counts = dict(sorted(Counter(row.client for row in rows).items()))
    return Seen(base, counts, max(side, SMALLEST), are_owners)


def words_for(seen: Seen, new: str | None = None) -> list[str]:
    """Return the settings of a run on a folder, on top of `PRESET`.

    ConfigError for a `new` person whom the folder does not have, and where it does not tell what
    it holds; DataError for people with too few images.
    """
    names, typed = [*seen.counts], f"spire try {shlex.quote(str(seen.folder))}"
    expected = f"--owners or --classes, to say what {', '.join(names):.200} are"
    advice = f"{typed} --owners (people, each with images of their own), or {typed} --classes"
    require(seen.are_owners is not None, expected, "neither", advice)
    words = ["data=folder", f"data.path={seen.folder}", f"data.image_size={seen.side}"]
    words += ["eval.every=0", "eval.controls=false"]
    if seen.are_owners:
        new, few = new or names[-1], [name for name in names if seen.counts[name] < FEWEST]
        require(new in names, f"--new out of {', '.join(names)}", repr(new), hint(new, names))
        if few or len(names) < 2:
            got = f"fewer of {', '.join(few)}" if few else f"{names[0]} alone"
            raise DataError(f"expected 2 people with {FEWEST} images each, got {got}: add some")
        num_old, fewest = len(names) - 1, min(seen.counts.values())
        words += ["partition=natural", f"partition.new_clients={write_value([new])}"]
        words += [f"data.metadata={METADATA}"] if (seen.folder / METADATA).is_file() else []
    elif len(names) <= FEW_KINDS:
        num_old = 2 * len(names)
        words += ["partition=pathological", "partition.classes_per_client=1"]
        fewest = min(seen.counts.values()) // 4  # of two or three clients, and a test split
    else:
        num_old, fewest = 6, sum(seen.counts.values()) // 20
    if fewest * load_config(PRESET).partition.test_fraction < 4:  # as a score needs
        words += ["partition.test_fraction=0.5", f"partition.min_size={FEWEST}"]
    sizes = {"num_clients": num_old, "num_new_clients": 1, "cohort_size": min(num_old, 4)}
    return words + [f"federation.{name}={number}" for name, number in sizes.items()]


def tried_words(config: Config) -> list[str] | None:
    """Return the settings of `words_for`, if a run has these and the preset's; None otherwise."""
    if config.data.path is None:
        return None
    new = next(iter(config.partition.new_clients), None)
    try:
        words = words_for(look(config.data.path, config.partition.name == "natural", new), new)
    except (ConfigError, DataError):  # a folder that nobody could have tried
        return None
    typed = load_config(PRESET, [*words, f"federation.num_rounds={config.federation.num_rounds}"])
    return words if pretrain_fingerprint(typed) == pretrain_fingerprint(config) else None


def rounds_in(words: Sequence[str], minutes: float) -> int:
    """Return how many rounds of a run take so many minutes here, by a few timed steps."""
    one, two = (load_config(PRESET, [*words, f"federation.num_rounds={n}"]) for n in (1, 2))
    plan = plan_on_nodes(one.resources, present_nodes(), most_useful_actors(one))
    one_s = run_seconds(one, plan)
    return max(10, int((60 * minutes - one_s) / (run_seconds(two, plan) - one_s)))


# --- the page -------------------------------------------------------------------------------------


def write_page(result: Result, words: Sequence[str]) -> Path:
    """Write a page with each person's images beside what is drawn for them, before and after."""
    setting, run = result.setting, SavedRun.load(result.run_dir)
    name = result.run_dir.name
    told = [f"{one.evidence}. Try {one.advice}." for one in result.diagnoses]
    shown = [*setting.new_ids, *setting.eval_ids][:NUM_SHOWN]
    newest = setting.label(setting.new_ids[0])
    named = setting.partition.name_of(setting.new_ids[0]) or str(setting.new_ids[0])
    go_on = f"spire sample {name} --client {shlex.quote(named)}\n"
    go_on += f"spire adapt {name} --data FOLDER     # somebody else arrives\n"
    go_on += f"spire run {PRESET} {shlex.join(words)} federation.num_rounds=1500"
    parts = [
        f"<h1>{html.escape(setting.config.data.path or '')}</h1>",
        f"<p>{len(setting.train_ids)} clients trained a model together, in "
        f"{setting.config.federation.num_rounds} rounds; each one's images stayed with it. "
        f"<b>{html.escape(newest)}</b> came later, and fitted "
        f"{result.adaptation.reports[0].num_trained} numbers to its own images. "
        "<i>Before</i> is what the model draws for nobody in particular, <i>after</i> what it "
        "draws for the one above. A few minutes of training draw rough shapes, and of photographs "
        "little more than colours; --minutes 30 trains longer.</p>",
        *(f"<p>Diagnosis: {html.escape(text)}</p>" for text in told),
        *(_section(result, run, client_id) for client_id in shown),
        f"<section><h2>Go on</h2><pre>{html.escape(go_on)}</pre></section>",
    ]
    head = f"<meta charset=utf-8><title>{html.escape(name)}</title><style>{STYLE}</style>"
    head += '<meta name=viewport content="width=device-width, initial-scale=1">'
    path = result.run_dir / PAGE
    path.write_text("\n".join(["<!doctype html>", head, *parts]), encoding="utf-8")
    return path


def _section(result: Result, run: SavedRun, client_id: int) -> str:
    """Return the part of a page about one client."""
    setting, split = result.setting, result.setting.partition.split(client_id)
    drawn = {
        "own images": setting.images[split.train[:NUM_DRAWN]],
        "before": run.draw(None, NUM_DRAWN, client_id),
        "after": run.draw(client_id, NUM_DRAWN, 0, run.guidance(client_id)),
    }
    held = np.bincount(setting.data.labels[split.train], minlength=len(setting.data.class_names))
    kinds = [name for name, num in zip(setting.data.class_names, held, strict=True) if num]
    name = setting.partition.name_of(client_id) or f"client {client_id}: {', '.join(kinds):.100}"
    is_new = client_id in setting.new_ids
    figures = (
        f'<figure><img alt="{text}" src="{inline(image_grid(images, COLUMNS))}">'
        f"<figcaption>{text}</figcaption></figure>"
        for text, images in drawn.items()
    )
    title = f"{html.escape(name)} <small>{'came later, ' * is_new}{len(split.train)} images</small>"
    return f"<section><h2>{title}</h2>{''.join(figures)}</section>"
