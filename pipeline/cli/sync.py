"""The verb `spire sync`: relays the waiting entries of runs to the present tracking store."""

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from click import argument

from pipeline.cli.command import Answer, anew, one_line, verb
from pipeline.cli.words import Words, allowed, offered, runs, split_one

if TYPE_CHECKING:
    from pipeline.config.tracking import TrackingConfig


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


@verb()
@argument("words", nargs=-1, metavar="[RUN] [KEY=VALUE]...", shell_complete=offered(runs))
@anew
def sync(words: Words, anew: bool) -> Answer:
    """Deliver what a run's tracking store has missed, or what those of all runs have missed.

    RUN is a run's id, name or folder, or last. Settings are those of tracking.*.
    """
    from pipeline.config.load import load_config
    from pipeline.runs.record import Kind, find_run, run_folders

    run, settings = split_one(words, "run, or none for all,")
    config = load_config(None, allowed(settings, ("tracking.",))).tracking
    folders = [find_run(run, config, get_args(Kind))] if run else run_folders(config)
    synced = sync_runs(config, folders, run is not None, anew)
    shown = [s for s in synced if s.num_delivered or s.num_waiting or s.num_refused]
    waiting = sum(s.num_waiting for s in synced)
    values: dict[str, Any] = {"num_waiting": waiting, "runs": [asdict(s) for s in synced]}
    return Answer("\n".join(s.text for s in shown) or "nothing waits", values, int(waiting > 0))


def sync_runs(
    config: "TrackingConfig",
    run_dirs: Sequence[Path],
    is_chosen: bool = False,
    is_anew: bool = False,
) -> list[Synced]:
    """Relay the waiting entries of these runs to the present store; return each one's outcome.

    With `is_anew` a run that the store does not know begins there anew. RunError if one that is
    chosen is not there, OSError if its files cannot be used; else that is its problem.
    """
    from pipeline.files.atomic import DamagedError
    from pipeline.runs.record import read_record, run_lock
    from pipeline.tracking.mlflow_session import sink_of
    from pipeline.tracking.outbox import num_refused, num_waiting
    from pipeline.tracking.relay import relay_all
    from spire_core.errors import RunError, StoreError

    synced, silent = list[Synced](), None  # the error of a store that is not asked again
    for run_dir in run_dirs:
        try:
            record = read_record(run_dir)
        except DamagedError:
            if is_chosen or run_dir.exists():
                raise
            continue  # deleted since it was listed
        if not record["tracked"]:
            continue
        delivered, problem = 0, silent
        try:
            if is_anew or (silent is None and num_waiting(run_dir)):
                with run_lock(run_dir) if is_anew else contextlib.nullcontext():
                    delivered, problem = relay_all(run_dir, sink_of(run_dir, config, is_anew))
        except StoreError as error:
            silent = problem = str(error)
        except (RunError, OSError) as error:
            if is_chosen:
                raise
            problem = str(error)
        waiting, refused = num_waiting(run_dir), num_refused(run_dir)
        run_id, run_name = record["run_id"], record["run_name"]
        problem = problem if waiting else None
        synced.append(Synced(run_id, run_name, delivered, waiting, refused, problem))
    return synced
