"""Where a report comes from: its question, its date, its command, and the pages of its runs."""

from collections.abc import Sequence
from datetime import UTC, datetime

from pipeline.cli.tables import duration
from pipeline.config.load import read_text
from pipeline.config.tracking import TrackingConfig, run_address
from pipeline.tracking.mlflow_queries import TrackedRun, artifact_text
from sweeps.report.contents import Origin
from sweeps.report.groups import Group
from sweeps.report.tables import Table

SWEEP_FILE = "config/sweep.yaml"  # an artifact of a sweep's own run
AGAIN = "spire sweep sweep.yaml"
PARAMETERS = "Every parameter of the runs in the tables; `/` stands between different values."
CITATION = """@article{ozkara2025spire,
  title = {SPIRE: Conditional Personalization for Federated Diffusion Generative Models},
  author = {Ozkara, Kaan and Zhou, Ruida and Diggavi, Suhas},
  year = {2025},
  eprint = {2506.12303},
  archivePrefix = {arXiv},
}"""


def origin_of(
    config: TrackingConfig, parent: TrackedRun | None, used: Sequence[TrackedRun]
) -> Origin:
    """Return where the numbers of these runs come from; `parent` is their sweep's run, if any."""
    file = artifact_text(config, parent.run_id, SWEEP_FILE) if parent else None
    question = str(read_text(file, SWEEP_FILE).get("question") or "") if file else ""
    links = {
        run.run_id: address
        for run in (*([parent] if parent else []), *used)
        if (address := run_address(config, run.experiment_id, run.run_id)).startswith("http")
    }
    return Origin(question, _when(used), AGAIN if file else "", file or "", links)


def _when(runs: Sequence[TrackedRun]) -> str:
    """Return the day on which these runs began, and how long they took, one by one and in all."""
    ends = [run.ended_ms for run in runs if run.ended_ms is not None]
    first = min(run.started_ms for run in runs)
    if not first or len(ends) < len(runs):
        return ""
    day = datetime.fromtimestamp(first / 1000, UTC)
    text = f"{day.day} {day:%B %Y}, {day:%H:%M} UTC, {duration((max(ends) - first) / 1000)}"
    if len(runs) == 1:
        return text
    alone = sum(end - run.started_ms for end, run in zip(ends, runs, strict=True))
    return f"{text} ({len(runs)} runs that took {duration(alone / 1000)} together)"


def parameters_table(groups: Sequence[Group]) -> Table:
    """Return all parameters of these groups' runs, with every value that each has."""
    values: dict[str, dict[str, None]] = {}
    for run in (run for group in groups for run in group.runs):
        for key, value in run.params.items():
            values.setdefault(key, {})[value] = None
    rows = tuple((key, " / ".join(values[key])) for key in sorted(values))
    return Table("parameters", "All parameters", PARAMETERS, ("parameter", "value"), rows)
