"""Pre-training on disk: going back to a checkpoint after a crash, and taking over another run's."""

import functools
import logging
import shutil
from collections.abc import Callable, Container
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pipeline.checkpoint import (
    CHECKPOINTS,
    checkpoints,
    drop_unfinished,
    folder_of,
    kept_rounds,
    new_state_file,
    newest_checkpoint,
    save_checkpoint,
)
from pipeline.client_store import CLIENTS, ClientStore
from pipeline.evaluation_store import rewind_evaluations
from pipeline.outbox import Points, read_points
from pipeline.ownership import refuse_links
from pipeline.schema import Config
from pipeline.server_file import write_state
from spire_core.errors import RunError, SpireError
from spire_core.server import ServerState

if TYPE_CHECKING:
    from pipeline.driver import Driver
    from pipeline.ray_driver import RemoteDriver
    from pipeline.storage import Mirror

RECORDED = ("pretrain/", "time/", "comm/", "memory/")  # names of what rounds and evaluations log
_log = logging.getLogger(__name__)


def go_back(run_dir: Path, config: Config) -> ServerState | None:
    """Return the state of a run's newest good checkpoint, or None, and drop what lies after it.

    None means the state before the first round, from which the same result comes, only later.
    """
    there = kept_rounds(run_dir)
    state = newest_checkpoint(run_dir, config.pretrain_fingerprint)
    done = 0 if state is None else state.round_idx
    if there and state is None:
        _log.warning("no checkpoint in %s can be used: round 0 is next", run_dir / CHECKPOINTS)
    for later in there:
        if later > done:
            shutil.rmtree(folder_of(run_dir, later))
    drop_unfinished(run_dir)
    ClientStore(run_dir / CLIENTS).rewind(done)
    for fault in rewind_evaluations(run_dir, done):
        _log.warning("damaged: %s: it is done again", fault)
    return state


def is_checkpoint_due(num_rounds_done: int, config: Config) -> bool:
    """Return whether a checkpoint is taken after so many rounds; after the last one always."""
    every = config.tracking.checkpoint_every
    is_last = num_rounds_done == config.federation.num_rounds
    return is_last or bool(every and num_rounds_done % every == 0)


class Checkpointer:
    """Takes a run's checkpoints while the next rounds are on their way, one after the other.

    The server's state is in a file before the next round begins. The rest waits, a second at most,
    until a core is free (`RemoteDriver.save_state`). Two at most are on their way: a third waits
    for the first. `mirror` takes them to a storage.
    """

    def __init__(self, run_dir: Path, config: Config, mirror: "Mirror | None" = None) -> None:
        self.run_dir, self.config, self.mirror = run_dir, config, mirror
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: dict[int, Future[None]] = {}  # by rounds done, oldest first
        self._driver: Driver | RemoteDriver | None = None

    @property
    def kept_rounds(self) -> tuple[int, ...]:
        """After how many rounds checkpoints were taken, of which clients keep their states."""
        return tuple(sorted({*kept_rounds(self.run_dir), *self._pending}))

    def take(self, driver: "Driver | RemoteDriver", num_rounds_done: int) -> None:
        """Begin a checkpoint of what a driver holds now, unless there is one of that round.

        Raises what became of those before, such as RunError without room for one.
        """
        self._driver = driver
        self._begin(num_rounds_done, driver.save_state)

    def take_state(self, state: ServerState) -> None:
        """Begin a checkpoint as `take` does, of a state at hand: its driver may be in a round."""
        self._begin(state.round_idx, lambda path: functools.partial(write_state, path, state))

    def _begin(self, num_rounds_done: int, save_state: Callable[[Path], Callable[[], int]]) -> None:
        self._wait_for_all_but(1)
        if num_rounds_done not in self.kept_rounds:
            written = save_state(new_state_file(self.run_dir, num_rounds_done))
            saved = self._thread.submit(self._save, num_rounds_done, written)
            self._pending[num_rounds_done] = saved

    def _save(self, num_rounds_done: int, written: Callable[[], int]) -> None:
        keep, fingerprint = self.config.tracking.keep_checkpoints, self.config.pretrain_fingerprint
        pinned = () if self.mirror is None else self.mirror.pinned_rounds
        save_checkpoint(self.run_dir, num_rounds_done, written, fingerprint, keep, pinned)
        if self.mirror is not None:
            self.mirror.begin(num_rounds_done)

    def _wait_for_all_but(self, num_left: int) -> None:
        for done, saved in list(self._pending.items()):
            if saved.done() or len(self._pending) > num_left:
                del self._pending[done]
                saved.result()

    def wait(self) -> None:
        """Wait until the last checkpoint is whole; raises what `take` does."""
        if self._driver is not None:
            self._driver.hurry()
        self._wait_for_all_but(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except SpireError as lost:
            if error is None:
                raise
            _log.warning("%s", lost)  # the error that ended the run matters more than this one
        finally:
            self._thread.shutdown()
            drop_unfinished(self.run_dir)
            if self.mirror is not None:
                self.mirror.close()


def has_pretraining(run_dir: Path, config: Config) -> bool:
    """Return whether a run holds a finished pre-training of these settings, every file whole."""
    state = newest_checkpoint(run_dir, config.pretrain_fingerprint)
    return state is not None and state.round_idx == config.federation.num_rounds


def copy_pretraining(
    source: Path, run_dir: Path, config: Config, train_ids: Container[int]
) -> None:
    """Copy the last checkpoint, the evaluations and the clients' states of a finished pre-training.

    RunError if it has not finished, was done with other settings, or holds a link.
    """
    refuse_links(source)
    state = newest_checkpoint(source, config.pretrain_fingerprint)
    if state is None or state.round_idx != config.federation.num_rounds:
        raise RunError(
            f"expected a finished pre-training of {config.federation.num_rounds} rounds in "
            f"{source}, got {'none' if state is None else state.round_idx}: resume that run first"
        )
    store = ClientStore(source / CLIENTS)
    trained = [client_id for client_id in store.client_ids() if client_id in train_ids]
    files = [file for client_id in trained for file in store.versions(client_id)[-1:]]
    files += sorted((source / "evaluations").glob("*.safetensors"))
    files += sorted(checkpoints(source)[-1].glob("*"))
    shutil.rmtree(run_dir / CLIENTS, ignore_errors=True)  # of an attempt of its own
    for file in files:
        target = run_dir / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target)


def pretraining_points(source: Path) -> Points:
    """Return the numbers that a run recorded in pre-training, in the order of their rounds."""
    points = [
        (step, {key: value for key, value in metrics.items() if key.startswith(RECORDED)})
        for step, metrics in read_points(source)
    ]
    return [(step, metrics) for step, metrics in points if metrics]
