"""The verb `spire sync`: what runs have told their stores in vain is delivered now.

As in `cli`, what is heavy is imported inside functions.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.command import Answer, add_verb, allowed, split_one

if TYPE_CHECKING:
    from pipeline.config.tracking import TrackingConfig


@dataclass(frozen=True)
class Synced:
    """What became of one run's entries; `problem`: why some of them still wait."""

    run_id: str
    run_name: str
    num_delivered: int
    num_waiting: int
    num_refused: int
    problem: str | None

    @property
    def text(self) -> str:
        """One line for people."""
        told = [f"{self.num_delivered} delivered"]
        told += [f"{self.num_waiting} wait ({self.problem})"] if self.num_waiting else []
        told += [f"{self.num_refused} were refused"] if self.num_refused else []
        return f"{self.run_id[:8]} ({self.run_name}): {', '.join(told)}"


def sync(args: argparse.Namespace) -> Answer:
    """Deliver what waits in the outbox of a run, or of all runs under the root."""
    from pipeline.config.load import load_config
    from pipeline.runs.record import find_run, run_folders

    run, settings = split_one(args.words, "run, or none for all,")
    config = load_config(None, allowed(settings, ("tracking.",))).tracking
    folders = [find_run(run, config, ("run", "sweep"))] if run else run_folders(config)
    synced = sync_runs(config, folders)
    told = [s for s in synced if s.num_delivered or s.num_waiting or s.num_refused]
    waiting = sum(s.num_waiting for s in synced)
    values: dict[str, Any] = {"num_waiting": waiting, "runs": [asdict(s) for s in synced]}
    text = "\n".join(s.text for s in told) or "nothing waits"
    return Answer(text, values, 1 if waiting else 0)


def sync_runs(config: "TrackingConfig", run_dirs: Sequence[Path]) -> list[Synced]:
    """Deliver what waits in these runs' outboxes; return what became of each tracked run's.

    A run's store is that of `config.uri`, else the one that the run began with.
    """
    from pipeline.runs.record import read_record
    from pipeline.tracking.outbox import num_refused, num_waiting

    synced, silent = [], {}
    for run_dir in run_dirs:
        record, delivered, problem = read_record(run_dir), 0, None
        if not record["tracked"]:
            continue
        if num_waiting(run_dir):
            delivered, problem = _deliver(config, run_dir, record["run_id"], silent)
        numbers = delivered, num_waiting(run_dir), num_refused(run_dir)
        synced.append(Synced(record["run_id"], record["run_name"], *numbers, problem))
    return synced


def _deliver(
    config: "TrackingConfig", run_dir: Path, run_id: str, silent: dict[str | None, str]
) -> tuple[int, str | None]:
    """Deliver what one run has told; return how many entries arrived, and what stopped it.

    `silent`: what is wrong with each store that did not answer, so that it is asked once.
    """
    from pipeline.runs.record import stored_uri
    from pipeline.tracking.mlflow_queries import readable_uri
    from pipeline.tracking.mlflow_session import first_contact, stage_of
    from pipeline.tracking.mlflow_sink import MlflowStore
    from pipeline.tracking.relay import deliver_all
    from spire_core.errors import SpireError

    uri = config.uri or stored_uri(run_dir)
    if uri in silent:
        return 0, silent[uri]
    config = replace(config, uri=uri)
    try:
        with first_contact(config, readable_uri(config)) as client:
            if stage_of(client, run_id) == "none":
                return 0, "its store does not know it: name another with tracking.uri=URI"
    except SpireError as error:
        silent[uri] = str(error)
        return 0, str(error)
    return deliver_all(run_dir, MlflowStore(client, run_id, run_dir))


def add_sync(verbs: Any) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "sync", sync, "deliver what a run's tracking store has missed")
    text = "a run's id, name or folder, or last (all runs unless given); settings of tracking.*"
    parser.add_argument("words", nargs="*", metavar="RUN | key=value", help=text)
