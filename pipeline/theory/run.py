"""The theory experiments end to end: each is run, recorded in MLflow, and drawn.

An experiment is a module here, whose function `run` goes from the settings to an `Outcome`.
"""

import logging
import time
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from pipeline.files.paths import REVISION, git_revision
from pipeline.theory.config import TheoryConfig
from pipeline.theory.outcome import Outcome, panels_figure
from pipeline.tracking.tracker import Tracker

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TheoryResult:
    """The outcome, the CPU time and the figure of each experiment."""

    run_id: str
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)
    figures: dict[str, Path] = field(default_factory=dict)


def run_theory(config: TheoryConfig, name: str, out: Path | None = None) -> TheoryResult:
    """Run the experiments of a configuration, in order, and record them as one MLflow run.

    Figures are written to `out`, or else to the run's own folder. Equal seeds give equal numbers,
    whichever other experiments are in the configuration.
    """
    tags = {"preset": name, "seed": str(config.seed), REVISION: git_revision()}
    with Tracker.start(config.tracking, f"theory-{name}", tags, kind="theory") as tracker:
        settings = config.as_dict()
        tracker.log_params({k: v for k, v in settings.items() if k != "tracking"})
        tracker.log_dict(settings, "config/resolved.yaml")
        folder = out or tracker.run_dir / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        result = TheoryResult(tracker.run_id)
        for experiment in config.experiments:
            started = time.process_time()
            outcome: Outcome = import_module(f"pipeline.theory.{experiment}").run(config)
            cpu_s = time.process_time() - started
            result.outcomes[experiment], result.cpu_s[experiment] = outcome, cpu_s
            _log.info("%s: %.1f CPU seconds", experiment, cpu_s)
            failed = sum(claim.is_met is False for claim in outcome.claims)
            numbers = {**outcome.numbers, "failed_claims": failed, "cpu_s": cpu_s}
            metrics = {f"theory/{experiment}/{key}": value for key, value in numbers.items()}
            tracker.log_metrics(metrics, step=0)
            for i, frame in enumerate(outcome.tables.values()):
                tracker.log_table(f"tables/{experiment}_{i}.json", frame.rename(columns=str))
            texts = {f"{i:02d}": str(claim) for i, claim in enumerate(outcome.claims)}
            tracker.log_dict(texts, f"claims/{experiment}.yaml")
            figure = panels_figure(outcome.panels, outcome.title)
            tracker.log_figure(figure, f"plots/{experiment}.png")
            result.figures[experiment] = folder / f"{experiment}.png"
            figure.savefig(result.figures[experiment], dpi=90)
    return result
