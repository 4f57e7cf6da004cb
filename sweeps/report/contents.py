"""What a report consists of, in the order of its page."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sweeps.report.figures import Picture
from sweeps.report.tables import Table

HTML, MARKDOWN, JSON = "report.html", "report.md", "report.json"


@dataclass(frozen=True)
class Snapshot:
    """A picture that a run drew, as a PNG; `name` is that of its file."""

    name: str
    title: str
    caption: str
    png: bytes


@dataclass(frozen=True)
class Origin:
    """Where a report's numbers come from.

    `question`: what the sweep is about; `when`: its date and duration; `sweep_file`: its settings
    as YAML, which `command` runs again; `links`: pages of the runs and the sweep in MLflow's UI, by
    run id. A store without pages has no links.
    """

    question: str = ""
    when: str = ""
    command: str = ""
    sweep_file: str = ""
    links: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """What a report says, and where it lies; `parent_id` is the sweep that it is attached to."""

    name: str
    folder: Path
    parent_id: str | None
    answers: list[str]
    facts: dict[str, str]
    notes: list[str]
    tables: list[Table]  # all runs and their parameters come last
    pictures: list[Picture]  # the main comparison comes first
    samples: list[Snapshot] = field(default_factory=list)
    partitions: list[Snapshot] = field(default_factory=list)
    origin: Origin = field(default_factory=Origin)
    words: Mapping[str, str] = field(default_factory=dict)  # of the first screen, explained

    @property
    def snapshots(self) -> list[Snapshot]:
        return [*self.samples, *self.partitions]

    def table(self, name: str) -> Table | None:
        """Return the table of that name, if there is one."""
        return next((table for table in self.tables if table.name == name), None)

    @property
    def html(self) -> Path:
        return self.folder / HTML

    @property
    def markdown(self) -> Path:
        return self.folder / MARKDOWN
