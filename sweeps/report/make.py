"""`spire report`, top to bottom: read runs, compare, draw, write, attach. Read `make_report`."""

import base64
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.cli.tables import aligned, duration
from pipeline.config.load import read_text
from pipeline.config.tracking import TrackingConfig, run_address, tracking_root
from pipeline.evaluation.diagnosis import ADVICE, DIAGNOSIS
from pipeline.figures.plots import FORGETTING, forgetting_figure
from pipeline.figures.style import svg_text
from pipeline.files.atomic import write_whole
from pipeline.files.paths import lasting
from pipeline.results.metric_names import CONTROLS_TABLE, DROPPED, NEW_CLIENTS_TABLE, ROUND_S
from pipeline.tracking.mlflow_queries import artifact_bytes, attach
from spire_core.errors import RunError
from sweeps.primary import primaries
from sweeps.report import compare, figures, tables
from sweeps.report.runs import (
    DOWN,
    EXTRACTOR,
    KID_ROUNDS,
    UP,
    experiments,
    read_curves,
    read_runs,
    read_samples,
    read_tables,
    short,
    with_costs,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pipeline.tracking.mlflow_queries import Run

SWEEP_FILE = "config/sweep.yaml"  # an artifact of a sweep's own run
TRIALS_FILE = "config/trials.yaml"  # likewise: the ids of its trials, as it began
CURVES = (KID_ROUNDS, UP, DOWN, DROPPED, ROUND_S, *FORGETTING)
SPREAD = "Lines: mean over seeds; shaded or barred: from the lowest to the highest seed."
NO_KID = "no KID, which needs features: eval.extractor=none"
FLOOR = "final/pretrain_kid_floor"
MAX_NAMED = 6  # runs in a note
TERMINAL = ("comparisons", "methods", "differences")  # the tables that a terminal shows
CITATION = """@article{ozkara2025spire,
  title = {SPIRE: Conditional Personalization for Federated Diffusion Generative Models},
  author = {Ozkara, Kaan and Zhou, Ruida and Diggavi, Suhas},
  year = {2025},
  eprint = {2506.12303},
  archivePrefix = {arXiv},
}"""


@dataclass(frozen=True)
class Picture:
    """A figure with what is said below it."""

    title: str
    caption: str
    figure: "Figure"


@dataclass(frozen=True)
class Report:
    """What a report says, and where it lies; `parent_id` is the sweep that it is attached to.

    `clients`: new clients at each method's best setting. `answers`: a sentence for each axis and
    for the methods of each task. `axes`: a figure for each of these axes. `samples`: PNG pictures
    by title. `links`: pages in MLflow's UI, by run id.
    """

    name: str
    folder: Path
    parent_id: str | None
    question: str
    facts: dict[str, str]
    notes: list[str]
    answers: list[str]
    axes: list[Picture]
    pictures: list[Picture]
    tables: dict[str, pd.DataFrame]
    samples: dict[str, bytes]
    clients: pd.DataFrame
    links: dict[str, str]
    sweep_file: str

    @property
    def html(self) -> Path:
        return self.folder / "report.html"

    def values(self) -> dict[str, Any]:
        """Return the report as plain values without NaN."""
        files = [str(self.folder / "tables" / f"{name}.csv") for name in self.tables]
        return {
            "name": self.name,
            "parent_run_id": self.parent_id,
            "question": self.question,
            "answers": self.answers,
            "facts": self.facts,
            "notes": self.notes,
            "tables": {k: json.loads(t.to_json(orient="records")) for k, t in self.tables.items()},
            "artifacts": {"folder": str(self.folder), "html": str(self.html), "tables": files},
        }

    def text(self) -> str:
        """Return the report for a terminal."""
        parts = [f"{self.name}: {self.facts['Runs']}", *self.answers]
        for name in TERMINAL:
            if name in self.tables:
                cells = tables.texts(name, self.tables[name])
                rows = cells.itertuples(index=False, name=None)
                parts.append(f"{name.capitalize()}\n{aligned([*map(str, cells)], rows)}")
        notes = "\n".join(f"note      {note}" for note in self.notes)
        attached = f", attached to run {self.parent_id[:8]}" if self.parent_id else ""
        return "\n\n".join([*parts, *filter(None, [notes]), f"page      {self.html}{attached}"])

    def note(self) -> str:
        """Return the description of the sweep's run in MLflow."""
        answers = [f"- {answer}" for answer in self.answers]
        end = "All of it: `report/report.html` among the artifacts."
        return "\n".join([f"**{self.name}**", "", self.question, "", *answers, "", end])

    def write(self) -> list[Path]:
        """Write the page and the tables in the place of those of an older report."""
        folder = self.folder / "tables"
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*tables.CAPTIONS, "clients"):
            (folder / f"{name}.csv").unlink(missing_ok=True)
        frames = self.tables | ({} if self.clients.empty else {"clients": self.clients})
        for name, frame in frames.items():
            write_whole(folder / f"{name}.csv", frame.to_csv(index=False).encode())
        write_whole(self.html, self.page().encode())
        return [self.html, *(folder / f"{name}.csv" for name in frames)]

    def page(self) -> str:
        """Return the page. Every text is escaped, because names may come from strangers."""
        from jinja2 import Environment, StrictUndefined  # needed by reports alone

        environment = Environment(autoescape=True, undefined=StrictUndefined)
        environment.filters |= {
            "svg": lambda figure: _data_uri("svg+xml", svg_text(figure).encode()),
            "png": lambda data: _data_uri("png", data),
        }
        source = (resources.files("sweeps.report") / "page.html.j2").read_text(encoding="utf-8")
        return environment.from_string(source).render(
            report=self,
            links={run_id[: tables.ID_CHARS]: link for run_id, link in self.links.items()},
            captions=tables.CAPTIONS,
            texts=tables.texts,
            citation=CITATION,
        )


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def make_report(config: TrackingConfig, words: Sequence[str], out: Path | None = None) -> Report:
    """Write the report of a sweep or of runs, attach it to the sweep, and return it.

    `words` as in `sweep_runs`. `out`: the folder, else one in the tracking root. RunError if no
    such run has finished; ClusterError if the store does not answer.
    """
    # 1. Read the runs, and choose each method's best setting.
    parent, asked = read_runs(config, words)
    runs = experiments(asked)
    if runs.empty:
        raise RunError(
            f"expected a finished experiment in {' '.join(words)!r}, got "
            f"{_counted(asked.status) or 'no run'}: wait for one, or name another sweep"
        )
    name = str(parent.info.run_name if parent else runs.run_id[0][: tables.ID_CHARS])
    folder = re.sub(r"[^\w.-]+", "-", name).strip(".-") or "report"
    chosen = compare.best_settings(runs)
    curves = read_curves(config, chosen, CURVES)
    chosen = with_costs(chosen, curves)
    clients = read_tables(config, chosen, NEW_CLIENTS_TABLE)
    sweep_file = _text(config, parent, SWEEP_FILE)
    recorded = read_text(sweep_file, SWEEP_FILE)

    # 2. Compare.
    planned = _planned(config, parent, runs)
    found = compare.comparisons(primaries(recorded.get("primary", ())), planned)
    told = compare.differences(chosen)
    axes = [*_axis_pictures(runs)]
    answers = [f"{picture.title}: {picture.caption}" for picture in axes]
    answers += [
        _of_task(task, said)
        for task, here in chosen.groupby("task", sort=False)
        if (said := compare.method_sentence(here))
    ]

    # 3. Tabulate and draw.
    controls = chosen[chosen["eval.controls"] == "True"]
    compared = {words: key for key, words in compare.COMPARED.items()}
    frames = {
        "comparisons": found,
        "methods": tables.methods_frame(chosen, told),
        **{name: tables.scores_frame(chosen, name) for name in tables.METRICS},
        "differences": told.assign(metric=told.metric.map(compare.COMPARED)),
        "controls": tables.controls_frame(read_tables(config, controls, CONTROLS_TABLE)),
        "prompts": tables.prompts_frame(chosen),
        "settings": tables.means(runs, compared) if len(runs) > len(chosen) else found[:0],
        "runs": tables.runs_frame(asked),
        "parameters": tables.parameters_frame(runs),
    }
    report = Report(
        name=name,
        folder=lasting(out or tracking_root(config) / "reports" / folder, "--out"),
        parent_id=parent.info.run_id if parent else None,
        question=str(recorded.get("question") or ""),
        facts=_facts(asked, runs),
        notes=_notes(runs, chosen),
        answers=answers,
        axes=axes,
        pictures=[*_pictures(found, clients, chosen, curves)],
        tables={name: frame for name, frame in frames.items() if not frame.empty},
        samples=read_samples(config, chosen, clients),
        clients=clients,
        links=_links(config, parent, asked),
        sweep_file=sweep_file,
    )

    # 4. Write and attach.
    paths = report.write()
    if parent:
        attach(config, parent.info.run_id, report.folder, paths, report.note())
    return report


def _text(config: TrackingConfig, parent: "Run | None", path: str) -> str:
    """Return the text of a sweep's artifact, empty if there is none."""
    return (artifact_bytes(config, parent.info.run_id, path) or b"").decode() if parent else ""


def _planned(config: TrackingConfig, parent: "Run | None", runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of the trials that a sweep had when it began.

    Seeds and settings that are added later must not decide what it finds.
    """
    if ids := _text(config, parent, TRIALS_FILE):
        runs = runs[runs["tags.spire.trial_id"].isin(read_text(ids, TRIALS_FILE)["trial_ids"])]
    return runs


def _of_task(task: object, text: str) -> str:
    return f"{task}: {text}" if task else text


def _axis_pictures(runs: pd.DataFrame) -> Iterator[Picture]:
    for key in compare.axes(runs):
        for task, here in compare.along(runs, key).groupby("task", sort=False):
            if here.groupby("method")["at"].nunique().max() > 1:
                sentence, figure = compare.axis_sentence(here), figures.axis_figure(here, key)
                yield Picture(_of_task(task, short(key)), sentence, figure)


def _pictures(
    found: pd.DataFrame, clients: pd.DataFrame, chosen: pd.DataFrame, curves: pd.DataFrame
) -> Iterator[Picture]:
    """Yield all figures but those of axes: of the written-down comparisons, then of each task."""
    text = (
        "Interval: 95 %, over paired seeds. Grey bar: the margin within which methods match. Left: "
        "the first method's score is lower. Grey: no difference was found after Holm's correction."
    )
    for scale, rows in found[found.low.notna()].groupby("scale", sort=False):
        figure = figures.comparisons_figure(rows, scale == "ratio")
        yield Picture(f"Comparisons of the sweep's file ({scale})", text, figure)
    for task, own in chosen.groupby("task", sort=False):
        here = curves[curves.task == task]
        floor = own.get(FLOOR, pd.Series(dtype=float)).mean()
        for figure, title, caption in (
            (
                figures.dots_figure(clients[clients.task == task]),
                "New clients, one by one",
                "Every new client of every seed, before adaptation (grey) and after (coloured). "
                "Bar: mean over seeds, from the lowest to the highest. Lower is better.",
            ),
            (figures.rounds_figure(here, floor), "KID over rounds", f"{SPREAD} Lower is better."),
            (
                forgetting_figure(here),
                "Forgetting during adaptation",
                f"{SPREAD} Own: noise alone lifts it above 0. Global: lost for existing clients. "
                "Replaced: lost if only the adapted client is kept.",
            ),
        ):
            if figure is not None:
                said = f"Each method at its best setting. {caption}"
                yield Picture(_of_task(task, title), said, figure)


def _links(config: TrackingConfig, parent: "Run | None", runs: pd.DataFrame) -> dict[str, str]:
    """Return the pages of runs in MLflow's UI by their ids; a store without pages has none."""
    ids = {parent.info.run_id: parent.info.experiment_id} if parent else {}
    ids |= dict(zip(runs.run_id, runs.experiment_id, strict=True))
    pages = {run_id: run_address(config, experiment, run_id) for run_id, experiment in ids.items()}
    return {run_id: page for run_id, page in pages.items() if page.startswith("http")}


def _facts(asked: pd.DataFrame, runs: pd.DataFrame) -> dict[str, str]:
    """Return what the report's numbers come from."""
    left = asked.status[asked.status != "FINISHED"]
    num_again = int((asked.status == "FINISHED").sum()) - len(runs)
    again = f"{num_again} run again later, or no experiments" if num_again else ""
    out = ", ".join(filter(None, (_counted(left), again)))
    seeds = ", ".join(map(str, sorted(runs.seed.unique())))
    began, ended = runs.began_ms.min() / 1000, runs.ended_ms.max() / 1000
    extractors = " / ".join(runs[EXTRACTOR].dropna().unique())
    return {
        "Runs": f"{len(runs)} finished, seeds {seeds}" + (f"; left out: {out}" if out else ""),
        "When": f"{datetime.fromtimestamp(began, UTC):%Y-%m-%d %H:%M} UTC, "
        f"{duration(ended - began)}",
        "Scores": NO_KID if extractors.startswith("none") else f"KID in features of {extractors}",
    }


def _counted(statuses: pd.Series) -> str:
    counts = statuses.str.lower().value_counts()
    return ", ".join(f"{num} {status}" for status, num in counts.sort_index().items())


def _notes(runs: pd.DataFrame, chosen: pd.DataFrame) -> list[str]:
    """Return what a reader must know to read the numbers right."""
    notes, sizes = [], runs.groupby(["task", "method", "setting"], sort=False).size()
    if (most := sizes.max()) < compare.FEW_SEEDS:
        notes.append(f"{most} {'seed' if most == 1 else 'seeds'}: too few to tell.")
    if len(chosen) < len(runs):
        notes.append(
            "Each method is shown at its best setting, chosen on the seeds that are shown. This "
            "favours methods with more settings."
        )
    if "simulated" in {*runs.get("tags.dp", ())}:
        notes.append(
            "The noise of runs tagged dp=simulated comes from a key that was given, or is scaled "
            "from a larger cohort: their epsilon is no promise to the clients in them."
        )
    unknown = runs.explode("unknown").dropna(subset="unknown")
    if odd := [*(unknown.name + ": " + unknown.unknown)]:
        notes.append(f"Not a number, and in no mean: {_several(odd)}.")
    diagnoses = runs.get(f"tags.{DIAGNOSIS}", pd.Series("", runs.index)).fillna("")
    for diagnosis, advice in ADVICE.items():
        if shown := [*runs.name[diagnoses.str.contains(diagnosis)]]:
            notes.append(f"{diagnosis}, seen in {_several(shown)}: try {advice}.")
    return notes


def _several(names: list[str]) -> str:
    rest = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + rest
