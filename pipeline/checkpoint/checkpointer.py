"""Checkpoints of pre-training, taken beside the rounds."""

import functools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pipeline.checkpoint.snapshots import kept_rounds, new_state_file, save_checkpoint
from pipeline.config.meaning import pretrain_fingerprint
from pipeline.config.schema import Config
from pipeline.federation.driver import Driver
from pipeline.federation.round_loop import RoundListener
from pipeline.federation.rounds import RoundStats
from pipeline.runs.server_state import write_state
from spire_core.errors import SpireError
from spire_core.federated.server import ServerState

if TYPE_CHECKING:
    from pipeline.checkpoint.remote import Mirror

T = TypeVar("T")
LAST_UPLOAD_S = 600.0  # for the last checkpoint's upload, before the new clients adapt
ENDING_UPLOAD_S = 10.0  # the same where an interrupt or an error ends the run
_log = logging.getLogger(__name__)


def in_background(work: Callable[[], T], name: str) -> Future[T]:
    """Begin some work in a thread that no process waits for when it ends; return its future."""
    result = Future[T]()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return result


def is_checkpoint_due(num_rounds_done: int, config: Config) -> bool:
    """Return whether a checkpoint is taken after so many rounds; the last round always has one."""
    every = config.tracking.checkpoint_every
    is_last = num_rounds_done == config.federation.num_rounds
    return is_last or bool(every and num_rounds_done % every == 0)


class Checkpointer(RoundListener):
    """Writes a run's checkpoints one after the other, while the next rounds are computed.

    The server's state is in a file before the next round begins. A checkpoint waits for the one
    before it. `mirror` copies them to a storage.
    """

    def __init__(self, run_dir: Path, config: Config, mirror: "Mirror | None" = None) -> None:
        self.run_dir, self.config, self.mirror = run_dir, config, mirror
        self._pending: tuple[int, Future[None]] | None = None  # rounds done, and its end

    def kept_rounds(self) -> tuple[int, ...]:
        """Return the numbers of rounds with a checkpoint, of which clients keep their states."""
        pending = () if self._pending is None else self._pending[:1]
        return tuple(sorted({*kept_rounds(self.run_dir), *pending}))

    def after_round(self, stats: RoundStats, driver: Driver) -> None:
        """Begin the checkpoint that is due; raises what went wrong with the one before."""
        if self._pending is not None and self._pending[1].done():
            self.wait()  # one that failed ends the run now
        if is_checkpoint_due(stats.round_idx + 1, self.config):
            self._begin(stats.round_idx + 1, driver.save_state)

    def interrupted(self, state: ServerState, stats: RoundStats | None) -> None:
        self._log_lost()  # it must not keep this one from being tried: there may be room again
        self._begin(state.round_idx, lambda path: functools.partial(write_state, path, state))

    def end_rounds(self, error: BaseException | None) -> None:
        """Wait for the pending checkpoint; its loss is raised, or logged beside `error`.

        Then wait for its upload, shortly if the run ends.
        """
        upload_s = ENDING_UPLOAD_S
        try:
            if error is None:
                self.wait()
                upload_s = LAST_UPLOAD_S
            else:  # which matters more than a lost checkpoint
                self._log_lost()
        finally:
            if self.mirror is not None:
                self.mirror.close(upload_s)

    def wait(self) -> None:
        """Wait until the last checkpoint is whole; raises what has kept it from that."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending[1].result()

    def _log_lost(self) -> None:
        """Wait as `wait` does, and log what that raises."""
        try:
            self.wait()
        except (SpireError, OSError) as lost:
            _log.warning("%s", lost)

    def _begin(self, num_rounds_done: int, save_state: Callable[[Path], Callable[[], int]]) -> None:
        self.wait()
        if num_rounds_done not in kept_rounds(self.run_dir):
            written = save_state(new_state_file(self.run_dir, num_rounds_done))
            save = functools.partial(self._save, num_rounds_done, written)
            self._pending = num_rounds_done, in_background(save, "checkpoint")

    def _save(self, num_rounds_done: int, written: Callable[[], int]) -> None:
        keep, fingerprint = self.config.tracking.keep_checkpoints, pretrain_fingerprint(self.config)
        pinned = () if self.mirror is None else self.mirror.pinned_rounds
        save_checkpoint(self.run_dir, num_rounds_done, written, fingerprint, keep, pinned)
        if self.mirror is not None:
            self.mirror.begin(num_rounds_done)
