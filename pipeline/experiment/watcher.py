"""The interface of whoever watches an experiment."""

from collections.abc import Callable
from pathlib import Path

from pipeline.evaluation.scores import Evaluation
from pipeline.federation.driver import Driver
from pipeline.federation.round_loop import RoundListener
from pipeline.federation.rounds import RoundStats


class Watcher(RoundListener):
    """Is called as a run proceeds; every method but `started` does nothing unless it is overridden.

    `run_dir`: the run's folder once the run can be resumed.
    """

    run_dir: Path | None = None
    on_round: Callable[[RoundStats], object] | None = None  # of who called

    def after_round(self, stats: RoundStats, driver: Driver) -> None:
        """A round has ended, and all of it is safe."""
        if self.on_round is not None:
            self.on_round(stats)

    def started(self, run_dir: Path) -> None:
        """A run has begun, or is resumed."""
        self.run_dir = run_dir

    def stage(self, text: str) -> None:
        """The next stage begins."""

    def evaluated(self, evaluation: Evaluation, floor: float) -> None:
        """The pre-training clients have been evaluated; `floor` is that of KID.

        No round begins before this call, which may end the run.
        """

    def pretrained(self, run_dir: Path) -> None:
        """The last checkpoint of pre-training has been written."""

    def close(self) -> None:
        """The run is over."""
