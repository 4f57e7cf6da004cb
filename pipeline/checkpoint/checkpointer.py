"""Checkpoints of pre-training: taking them beside the rounds, and going back to one."""

import functools
import logging
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.checkpoint.evaluation_store import rewind_evaluations
from pipeline.checkpoint.snapshots import (
    drop_unfinished,
    folder_of,
    kept_rounds,
    new_state_file,
    newest_checkpoint,
    save_checkpoint,
)
from pipeline.clients.store import ClientStore
from pipeline.config.meaning import pretrain_fingerprint
from pipeline.config.schema import Config
from pipeline.federation.driver import RoundDriver
from pipeline.federation.round_loop import RoundListener
from pipeline.federation.rounds import RoundStats
from pipeline.runs.layout import CHECKPOINTS, CLIENTS
from pipeline.runs.server_state import write_state
from spire_core.errors import SpireError
from spire_core.federated.server import ServerState

if TYPE_CHECKING:
    from pipeline.checkpoint.remote import Mirror

LAST_UPLOAD_S = 600.0  # for the last checkpoint's upload, before the new clients adapt
ENDING_UPLOAD_S = 10.0  # the same where an interrupt or an error ends the run
_log = logging.getLogger(__name__)


def go_back(run_dir: Path, config: Config) -> ServerState | None:
    """Return the state of a run's newest good checkpoint, or None; later files are deleted.

    None stands for the state before the first round. The run then repeats all its rounds and ends
    with the same result.
    """
    there = kept_rounds(run_dir)
    state = newest_checkpoint(run_dir, pretrain_fingerprint(config))
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
    """Return whether a checkpoint is taken after so many rounds; the last round always has one."""
    every = config.tracking.checkpoint_every
    is_last = num_rounds_done == config.federation.num_rounds
    return is_last or bool(every and num_rounds_done % every == 0)


class Checkpointer(RoundListener):
    """Writes a run's checkpoints one after the other, while the next rounds are computed.

    The server's state is in a file before the next round begins. At most two checkpoints are
    pending: a third waits for the first. `mirror` copies them to a storage.

    An interrupt's checkpoint is taken if `may_resume_after` is true for its number of rounds.
    """

    def __init__(
        self,
        run_dir: Path,
        config: Config,
        mirror: "Mirror | None" = None,
        may_resume_after: Callable[[int], bool] = lambda num_rounds_done: True,
    ) -> None:
        self.run_dir, self.config, self.mirror = run_dir, config, mirror
        self.may_resume_after = may_resume_after
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: dict[int, Future[None]] = {}  # by rounds done, oldest first

    def kept_rounds(self) -> tuple[int, ...]:
        """Return the numbers of rounds with a checkpoint, of which clients keep their states."""
        return tuple(sorted({*kept_rounds(self.run_dir), *self._pending}))

    def after_round(self, stats: RoundStats, driver: RoundDriver) -> None:
        self._wait_for_all_but(len(self._pending))  # for none: one that failed ends the run now
        if is_checkpoint_due(stats.round_idx + 1, self.config):
            self.take(driver, stats.round_idx + 1)

    def interrupted(self, state: ServerState, stats: RoundStats | None) -> None:
        if self.may_resume_after(state.round_idx):
            self._log_lost(1)  # it must not keep this one from being tried: there may be room again
            self.take_state(state)

    def end_rounds(self, error: BaseException | None) -> None:
        """Wait for the pending checkpoints; their loss is raised, or logged beside `error`.

        Then wait for their upload, shortly if the run ends.
        """
        upload_s = LAST_UPLOAD_S if error is None else ENDING_UPLOAD_S
        try:
            self.wait()
        except (SpireError, OSError) as lost:
            if error is None:
                upload_s = ENDING_UPLOAD_S
                raise
            if lost is not error:  # the error that ended the run matters more than this one
                _log.warning("%s", lost)
        finally:
            self._thread.shutdown()
            self._log_lost(0)
            drop_unfinished(self.run_dir)
            if self.mirror is not None:
                self.mirror.close(upload_s)

    def take(self, driver: RoundDriver, num_rounds_done: int) -> None:
        """Begin a checkpoint of the driver's state, unless that round has one.

        Raises the errors of earlier checkpoints, such as RunError if there was no room for one.
        """
        self._begin(num_rounds_done, driver.save_state)

    def take_state(self, state: ServerState) -> None:
        """Begin a checkpoint as `take` does, of a state at hand: its driver may be in a round."""
        self._begin(state.round_idx, lambda path: functools.partial(write_state, path, state))

    def wait(self) -> None:
        """Wait until the last checkpoint is whole; raises as `take` does."""
        self._wait_for_all_but(0)

    def _begin(self, num_rounds_done: int, save_state: Callable[[Path], Callable[[], int]]) -> None:
        self._wait_for_all_but(1)
        if num_rounds_done not in self.kept_rounds():
            written = save_state(new_state_file(self.run_dir, num_rounds_done))
            saved = self._thread.submit(self._save, num_rounds_done, written)
            self._pending[num_rounds_done] = saved

    def _save(self, num_rounds_done: int, written: Callable[[], int]) -> None:
        keep, fingerprint = self.config.tracking.keep_checkpoints, pretrain_fingerprint(self.config)
        pinned = () if self.mirror is None else self.mirror.pinned_rounds
        save_checkpoint(self.run_dir, num_rounds_done, written, fingerprint, keep, pinned)
        if self.mirror is not None:
            self.mirror.begin(num_rounds_done)

    def _wait_for_all_but(self, num_left: int) -> None:
        """Wait until so many checkpoints at most are pending; raises the first error of one."""
        for lost in self._lost(num_left):
            raise lost

    def _log_lost(self, num_left: int) -> None:
        for lost in self._lost(num_left):
            _log.warning("%s", lost)

    def _lost(self, num_left: int) -> Iterator[BaseException]:
        """Yield the errors of checkpoints that are not pending any more, as they are waited for."""
        for done, saved in list(self._pending.items()):
            if saved.done() or len(self._pending) > num_left:
                del self._pending[done]
                if (error := saved.exception()) is not None:
                    yield error
