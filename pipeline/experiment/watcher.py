"""What an experiment tells whoever watches it."""

from pathlib import Path

from pipeline.evaluation.scores import Evaluation
from pipeline.federation.rounds import RoundStats


class Watcher:
    """Is told what happens, as it happens; this one shows nothing.

    `may_stop`: whether `evaluated` may end the run, so that no round is to begin before it is told.
    """

    may_stop = False

    def started(self, run_dir: Path) -> None:
        """A run has begun, or goes on."""

    def stage(self, text: str) -> None:
        """What happens next."""

    def round_done(self, stats: RoundStats, num_rounds: int) -> None:
        """A round has ended."""

    def evaluated(self, evaluation: Evaluation, floor: float) -> None:
        """The pre-training clients have been evaluated; `floor` is that of KID."""

    def pretrained(self, run_dir: Path) -> None:
        """The last checkpoint of pre-training has been written."""

    def close(self) -> None:
        """Nothing more will come."""
