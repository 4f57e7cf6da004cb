"""A torch.profiler trace of a few rounds, as one worker computes them (`tracking.profile`).

The run's folder gets `profile/rounds_<first>-<last>.pt.trace.json.gz`, for Perfetto,
chrome://tracing or TensorBoard, and `profile/operators.txt`, the slowest operators.
Profiling draws no random number and changes no result.
"""

import logging
from collections.abc import Collection
from pathlib import Path

from pipeline.clients.profiler import NUM_ROUNDS
from pipeline.federation.driver import Driver
from pipeline.federation.pool import ClientPool
from pipeline.federation.round_loop import RoundListener
from pipeline.federation.rounds import RoundStats
from pipeline.runs.layout import PROFILE

_log = logging.getLogger(__name__)


def profiled_rounds(first: int, num_rounds: int, evaluated: Collection[int]) -> range:
    """Return which of the rounds from `first` on are profiled: three, after a warm-up round.

    The warm-up round allocates memory and chooses kernels. Fewer rounds are profiled where the run
    ends or an evaluation comes in between; `evaluated`: the numbers of rounds after which there is
    one.
    """
    start = max(first, min(first + 1, num_rounds - 1))
    stop = min(start + NUM_ROUNDS, num_rounds)
    return range(start, min([stop, *(done for done in evaluated if done > start)]))


class Profiler(RoundListener):
    """Profiles one worker during `rounds`; the files are written after the last of them.

    The loss of that worker costs the profile alone.
    """

    def __init__(self, pool: ClientPool, run_dir: Path, rounds: range) -> None:
        self.pool, self.run_dir, self.rounds = pool, run_dir, rounds

    def between_rounds(self, done: int, driver: Driver) -> None:
        if done in self.rounds[:1]:
            next(self.pool.each("start_profile"))

    def after_round(self, stats: RoundStats, driver: Driver) -> None:
        if stats.round_idx in self.rounds[-1:]:
            name = f"rounds_{self.rounds[0] + 1}-{self.rounds[-1] + 1}"  # as metrics count them
            if not next(self.pool.each("save_profile", self.run_dir / PROFILE, name)):
                _log.warning("no profile: the client actor that was watched has been lost")
