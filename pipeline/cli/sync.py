"""The verb `spire sync`: relays the waiting entries of runs to their tracking stores."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pipeline.cli.command import Answer, add_mine, add_verb, one_line
from pipeline.cli.words import allowed, split_one

if TYPE_CHECKING:
    from pipeline.config.tracking import TrackingConfig
    from pipeline.runs.ownership import Begun


@dataclass(frozen=True)
class Synced:
    """The outcome for one run's entries; `problem`: the reason why some of them still wait."""

    run_id: str
    run_name: str
    num_delivered: int
    num_waiting: int
    num_refused: int
    problem: str | None

    @property
    def text(self) -> str:
        """One line for people."""
        parts = [f"{self.num_delivered} delivered"]
        parts += [f"{self.num_waiting} wait ({self.problem})"] if self.num_waiting else []
        parts += [f"{self.num_refused} were refused"] if self.num_refused else []
        return one_line(f"{self.run_id[:8]} ({self.run_name}): {', '.join(parts)}")


def sync(args: argparse.Namespace) -> Answer:
    """Relay the waiting entries of a run, or of all runs under the root."""
    from pipeline.config.load import load_config
    from pipeline.runs.record import Kind, find_run, run_folders
    from spire_core.errors import ConfigError

    run, settings = split_one(args.words, "run, or none for all,")
    config = load_config(None, allowed(settings, ("tracking.",))).tracking
    if args.mine and not run:
        raise ConfigError("expected a run with --mine, got none: name each that is yours")
    folders = [find_run(run, config, get_args(Kind))] if run else run_folders(config)
    if args.mine:
        from pipeline.tracking.claim import claim

        claim(folders[0], config)
    synced = sync_runs(config, folders, is_chosen=run is not None)
    shown = [s for s in synced if s.num_delivered or s.num_waiting or s.num_refused]
    waiting = sum(s.num_waiting for s in synced)
    values: dict[str, Any] = {"num_waiting": waiting, "runs": [asdict(s) for s in synced]}
    return Answer("\n".join(s.text for s in shown) or "nothing waits", values, int(waiting > 0))


def sync_runs(
    config: "TrackingConfig", run_dirs: Sequence[Path], is_chosen: bool = False
) -> list[Synced]:
    """Relay the waiting entries of these runs; return the outcome for each tracked one.

    A run's store is that of `config.uri`, else the one that an own run began with. A foreign one is
    left alone unless it is chosen, or unless its store is named, here or in the environment.
    RunError if one that is chosen holds a link, OSError if its files cannot be used.
    """
    from pipeline.files.damage import DamagedError
    from pipeline.runs.record import read_record
    from spire_core.errors import RunError

    synced, silent = [], {}
    for run_dir in run_dirs:
        try:
            record = read_record(run_dir)
        except DamagedError:
            if is_chosen or run_dir.exists():
                raise
            continue  # deleted since it was listed
        if not record["tracked"]:
            continue
        try:
            numbers = _sync(config, run_dir, is_chosen, silent)
        except (RunError, OSError) as error:
            if is_chosen:
                raise
            # How many wait is not read: its outbox may be a link, or cannot be read.
            numbers = 0, 1, 0, str(error)
        synced.append(Synced(record["run_id"], record["run_name"], *numbers))
    return synced


def _sync(
    config: "TrackingConfig", run_dir: Path, is_chosen: bool, silent: dict[str | None, str]
) -> tuple[int, int, int, str | None]:
    """Return a run's numbers of delivered, waiting and refused entries, and the problem."""
    from pipeline.config.tracking import tracking_root
    from pipeline.runs.ownership import check_links, is_named
    from pipeline.runs.record import read_record
    from pipeline.tracking.outbox import num_refused, num_waiting

    begun, delivered, problem = check_links(run_dir, tracking_root(config)), 0, None
    if num_waiting(run_dir):
        if begun is not None or is_chosen or is_named(config):
            delivered, problem = _deliver(config, run_dir, begun, silent)
        else:
            problem = "this root did not begin it: name its store with tracking.uri=URI, or, if"
            problem += f" it is yours, type spire sync {read_record(run_dir)['run_id']} --mine"
    return delivered, num_waiting(run_dir), num_refused(run_dir), problem


def _deliver(
    config: "TrackingConfig",
    run_dir: Path,
    begun: "Begun | None",
    silent: dict[str | None, str],
) -> tuple[int, str | None]:
    """Relay the entries of one run; return how many arrived, and the error that stopped it.

    `silent`: the error of each store that did not answer, so that it is asked only once.
    """
    from pipeline.config.tracking import tracking_root
    from pipeline.runs.ownership import check_addresses, name_address
    from pipeline.runs.record import read_record
    from pipeline.tracking.mlflow_queries import readable_uri
    from pipeline.tracking.mlflow_session import artifact_addresses, first_contact, in_store, run_of
    from pipeline.tracking.mlflow_sink import MlflowSink
    from pipeline.tracking.relay import relay_all
    from spire_core.errors import SpireError

    uri = config.uri or (None if begun is None else begun.stored_uri)
    if uri in silent:
        return 0, silent[uri]
    run_id = read_record(run_dir)["run_id"]
    try:
        config = replace(config, uri=uri)  # which may have been damaged in the note
        address = readable_uri(config)
        if begun is None:
            name_address(run_dir, "its store is", address)
        with first_contact(address) as client:
            run = run_of(client, run_id)
            if run is None:
                return 0, "its store does not know it: name another with tracking.uri=URI"
            if run.info.lifecycle_stage != "active":  # it would refuse every entry, for good
                command = f"{in_store(address)} mlflow runs restore --run-id {run_id}"
                return 0, f"it was deleted there: {command}"
            addresses = artifact_addresses(client, run, begun is not None)
    except SpireError as error:
        silent[uri] = str(error)
        return 0, str(error)
    try:
        check_addresses(addresses, begun, run_dir, tracking_root(config))
    except SpireError as error:  # of this run, not of its store
        return 0, str(error)
    return relay_all(run_dir, MlflowSink(client, run_id, run_dir))


def add_sync(verbs: Any) -> None:
    """Add the verb."""
    parser = add_verb(verbs, "sync", sync, "deliver what a run's tracking store has missed")
    text = "a run's id, name or folder, or last (all runs unless given); settings of tracking.*"
    parser.add_argument("words", nargs="*", metavar="RUN | key=value", help=text)
    add_mine(parser)
