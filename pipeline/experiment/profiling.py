"""A torch.profiler trace of a few rounds, as one worker computes them (`tracking.profile`).

Written into a run's folder: `profile/rounds_<first>-<last>.pt.trace.json.gz`, for Perfetto,
chrome://tracing or TensorBoard, and `profile/operators.txt`, the operators that took longest.
Watching draws no random number and changes no result.
"""

import contextlib
import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.clients.profiler import NUM_ROUNDS
from pipeline.runs.layout import PROFILE

if TYPE_CHECKING:
    from pipeline.federation.pool import ClientPool


STOP_S = 2.0
_log = logging.getLogger(__name__)


def profiled_rounds(first: int, num_rounds: int, evaluated: Collection[int]) -> range:
    """Return which of the rounds from `first` on are watched: the three after a first one.

    In that one memory is allocated and kernels are chosen. There are fewer where the run ends, or
    where an evaluation comes in between; `evaluated`: after how many rounds there is one.
    """
    start = max(first, min(first + 1, num_rounds - 1))
    stop = min(start + NUM_ROUNDS, num_rounds)
    return range(start, min([stop, *(done for done in evaluated if done > start)]))


@contextlib.contextmanager
def watched(pool: "ClientPool", run_dir: Path, rounds: range, round_idx: int) -> Iterator[None]:
    """Have a worker watched while a block computes a round, if that is one of `rounds`.

    With the last of them the files are written. A loss of that worker costs the profile alone.
    """
    if round_idx in rounds[:1]:
        pool.ask_first("start_profile")
    try:
        yield
    except BaseException:
        if round_idx in rounds:
            pool.ask_first("stop_profile", limit_s=STOP_S)  # it may be what hangs
        raise
    if round_idx in rounds[-1:]:
        name = f"rounds_{rounds[0] + 1}-{rounds[-1] + 1}"  # as metrics count them
        if not pool.ask_first("save_profile", run_dir / PROFILE, name):
            _log.warning("no profile: the client actor that was watched has been lost")
