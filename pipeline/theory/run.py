"""The theory experiments end to end: each is run, recorded in MLflow, and drawn.

An experiment is a function from the settings to an `Outcome`; `RUN` lists all of them.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.load import flattened
from pipeline.files.revision import REVISION, running_code
from pipeline.theory.backbone import check_backbone, run_backbone
from pipeline.theory.bridge import run_bridge
from pipeline.theory.components import component_settings, run_components
from pipeline.theory.config import TheoryConfig
from pipeline.theory.failure import check_failure, run_failure
from pipeline.theory.figures import panels_figure
from pipeline.theory.landscape import check_landscape, run_landscape
from pipeline.theory.new_clients import check_coverage
from pipeline.theory.optimiser import check_optimiser, run_optimiser
from pipeline.theory.outcome import Outcome
from pipeline.theory.readout import run_readout
from pipeline.theory.scaling import check_scaling, run_scaling
from pipeline.tracking.tracker import Tracker


@dataclass(frozen=True)
class Experiment:
    """A function that runs an experiment, and one that checks combinations of its settings."""

    run: Callable[[TheoryConfig], Outcome]
    check: Callable[[TheoryConfig], object] = lambda config: None


RUN = {
    "scaling": Experiment(run_scaling, check_scaling),
    "failure": Experiment(run_failure, check_failure),
    "optimiser": Experiment(run_optimiser, check_optimiser),
    "components": Experiment(run_components, component_settings),
    "backbone": Experiment(run_backbone, check_backbone),
    "bridge": Experiment(run_bridge),
    "landscape": Experiment(run_landscape, check_landscape),
    "readout": Experiment(run_readout, check_coverage),
}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TheoryResult:
    """The outcomes of `run_theory`, the CPU time of each experiment, and the figures' paths."""

    run_id: str
    outcomes: tuple[Outcome, ...]
    cpu_s: tuple[float, ...]
    figures: tuple[Path, ...]


def check_theory(config: TheoryConfig) -> None:
    """Raise ConfigError for a mistake in the settings of any experiment that would run."""
    for experiment in config.experiments:
        RUN[experiment].check(config)


def run_theory(config: TheoryConfig, name: str, out: Path | None = None) -> TheoryResult:
    """Run the experiments of a configuration, in order, and record them as one MLflow run.

    Figures are written to `out`, or else to the run's own folder. Equal seeds give equal numbers,
    whichever other experiments are in the configuration.
    """
    check_theory(config)
    outcomes, cpu_s, paths = [], [], []
    tags = {"preset": name, "seed": str(config.seed), REVISION: running_code()}
    with Tracker.start(config.tracking, f"theory-{name}", tags, kind="theory") as tracker:
        settings = flattened(config.as_dict())
        tracker.log_params({k: v for k, v in settings.items() if not k.startswith("tracking.")})
        tracker.log_dict(config.as_dict(), "config/resolved.yaml")
        folder = out or tracker.run_dir / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        for experiment in config.experiments:
            started = time.process_time()
            outcome = RUN[experiment].run(config)
            cpu_s.append(time.process_time() - started)
            _log.info("%s: %.1f CPU seconds", experiment, cpu_s[-1])
            outcomes.append(outcome)
            paths.append(_record(tracker, outcome, cpu_s[-1], folder))
    return TheoryResult(tracker.run_id, tuple(outcomes), tuple(cpu_s), tuple(paths))


def _record(tracker: Tracker, outcome: Outcome, cpu_s: float, folder: Path) -> Path:
    """Write one outcome into the run, and its figure to the folder as well."""
    head = f"theory/{outcome.name}"
    numbers = {f"{head}/{key}": value for key, value in outcome.numbers.items()}
    failed = sum(claim.is_met is False for claim in outcome.claims)
    tracker.log_metrics(numbers | {f"{head}/failed_claims": failed, f"{head}/cpu_s": cpu_s}, step=0)
    for i, columns in enumerate(outcome.tables.values()):
        tracker.log_table(f"tables/{outcome.name}_{i}.json", columns)
    texts = {f"{i:02d}": str(claim) for i, claim in enumerate(outcome.claims)}
    tracker.log_dict(texts, f"claims/{outcome.name}.yaml")
    figure = panels_figure(outcome.panels, outcome.title)
    tracker.log_figure(figure, f"plots/{outcome.name}.png")
    figure.savefig(folder / f"{outcome.name}.png", dpi=90)
    return folder / f"{outcome.name}.png"
