"""A report as one self-contained page, as CSV tables, as text and as plain values."""

import base64
import json
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from pipeline.cli.command import one_line
from pipeline.cli.tables import aligned
from pipeline.figures.style import svg_text
from pipeline.files.atomic import write_whole
from sweeps.report.tables import TEXTS, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HTML = "report.html"
CSS_PIXELS = 100  # on the page for an inch of a figure
FIRST = ("comparisons", "methods")  # tables of the first screen
FOLDED = ("parameters",)
TERMINAL = ("comparisons", "methods", "differences")
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

    `runs`: the finished experiments, `clients`: new clients at each method's best setting.
    `answers`: a sentence for each axis and for the methods of each task. `axes`: a figure for each
    of these axes, `compared`: those of the comparisons. `samples`: PNG pictures by title.
    """

    name: str
    folder: Path
    parent_id: str | None
    question: str
    facts: dict[str, str]
    notes: list[str]
    answers: list[str]
    axes: list[Picture]
    compared: list[Picture]
    pictures: list[Picture]
    tables: dict[str, Table]
    samples: dict[str, bytes]
    runs: pd.DataFrame
    clients: pd.DataFrame
    links: dict[str, str] = field(default_factory=dict)  # pages in MLflow's UI, by run id
    sweep_file: str = ""

    @property
    def html(self) -> Path:
        return self.folder / HTML

    def values(self) -> dict[str, Any]:
        """Return the report as plain values without NaN."""
        tables = {n: json.loads(t.frame.to_json(orient="records")) for n, t in self.tables.items()}
        files = {name: str(self.folder / "tables" / f"{name}.csv") for name in self.tables}
        return {
            "name": self.name,
            "parent_run_id": self.parent_id,
            "question": self.question,
            "answers": self.answers,
            "facts": self.facts,
            "notes": self.notes,
            "tables": tables,
            "artifacts": {
                "folder": str(self.folder),
                "html": str(self.html),
                "tables": [*files.values()],
            },
        }

    def text(self) -> str:
        """Return the report for a terminal. Names may come from strangers: none is obeyed."""
        parts = [one_line(part) for part in (f"{self.name}: {self.facts['Runs']}", *self.answers)]
        shown = [self.tables[name] for name in TERMINAL if name in self.tables]
        parts += [f"{table.title}\n{_aligned(table.texts())}" for table in shown]
        notes = "\n".join(f"note      {one_line(note)}" for note in self.notes)
        parts += [notes] * bool(notes)
        attached = f", attached to run {self.parent_id[:8]}" if self.parent_id else ""
        return "\n\n".join([*parts, f"page      {self.html}{attached}"])

    def note(self) -> str:
        """Return the description of the sweep's run in MLflow."""
        answers = [f"- {answer}" for answer in self.answers]
        end = "All of it: `report/report.html` among the artifacts."
        return "\n".join([f"**{self.name}**", "", self.question, "", *answers, "", end])

    def write(self) -> list[Path]:
        """Write the page and the tables in the place of those of an older report."""
        folder = self.folder / "tables"
        for name in (*TEXTS, "clients"):
            (folder / f"{name}.csv").unlink(missing_ok=True)
        frames = {name: table.frame for name, table in self.tables.items()}
        frames |= {} if self.clients.empty else {"clients": self.clients}
        for name, frame in frames.items():
            write_whole(folder / f"{name}.csv", frame.to_csv(index=False).encode())
        write_whole(self.html, self.page().encode())
        return [self.html, *(folder / f"{name}.csv" for name in frames)]

    def page(self) -> str:
        """Return the page. Every text is escaped, because names may come from strangers."""
        from jinja2 import Environment, StrictUndefined  # needed by reports alone

        environment = Environment(
            autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters |= {"svg": _svg, "png": _png, "pixels": _pixels}
        source = (resources.files("sweeps.report") / "page.html.j2").read_text(encoding="utf-8")
        links = {run_id[:8]: link for run_id, link in self.links.items()}
        return environment.from_string(source).render(
            report=self, links=links, first=FIRST, folded=FOLDED, citation=CITATION
        )


def _aligned(texts: pd.DataFrame) -> str:
    rows = texts.itertuples(index=False, name=None)
    return aligned([one_line(str(name)) for name in texts], [[*map(one_line, row)] for row in rows])


def _svg(figure: "Figure") -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(svg_text(figure).encode()).decode()}"


def _png(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _pixels(figure: "Figure") -> int:
    return round(figure.get_figwidth() * CSS_PIXELS)
