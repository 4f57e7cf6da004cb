"""The progress of an experiment on stderr: a bar in a terminal, a few lines elsewhere."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from pipeline.evaluation.scores import Evaluation
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import RoundDriver
from pipeline.federation.rounds import RoundStats

NUM_LINES = 10  # for the rounds of a run whose stderr is not a terminal


class Progress(Watcher):
    """Shows stages, rounds (loss, seconds per round, time left) and one line per evaluation."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bar: tqdm | None = None
        self._began = 0.0
        self._rounds = range(0)  # of this process
        self._later: Sequence[str] = ()

    def started(self, run_dir: Path) -> None:
        """Show the run's id, with which it can be resumed."""
        super().started(run_dir)
        self._say(f"run {run_dir.name} in {run_dir}")

    def stage(self, text: str) -> None:
        """Show the stage that begins."""
        self.close()
        self._say(text)

    def plan(self, later: Sequence[str]) -> None:
        """Keep the names of the stages after the rounds."""
        self._later = later

    def begin_rounds(self, rounds: range) -> None:
        self._rounds, self._began = rounds, time.monotonic()

    def after_round(self, stats: RoundStats, driver: RoundDriver) -> None:
        """Show the end of a round."""
        num_rounds = self._rounds.stop
        done, round_s = stats.round_idx + 1, stats.train_s + stats.aggregate_s
        if self._stream.isatty():
            self._advance_bar(stats, round_s)
        elif (
            done == num_rounds
            or done * NUM_LINES // num_rounds > stats.round_idx * NUM_LINES // num_rounds
        ):
            self._say(
                f"round {done}/{num_rounds}  {loss_text(stats)}{left_out(stats)}  "
                f"{round_s:.2f} s/round  {self._time_left(done)}"
            )

    def evaluated(self, evaluation: Evaluation, floor: float) -> None:
        """Show the means of one evaluation in one line."""
        self._say(evaluation_line(evaluation, floor))

    def close(self) -> None:
        """End the bar, if there is one; later output starts on a new line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _time_left(self, done: int) -> str:
        """Return the time that the rounds still take, and the stages after them.

        A resumed run is measured by the rounds of this process alone.
        """
        elapsed_s, num_done = time.monotonic() - self._began, done - self._rounds.start
        left_s = elapsed_s * (self._rounds.stop - done) / num_done
        return ", then ".join([f"{tqdm.format_interval(left_s)} left", *self._later])

    def _advance_bar(self, stats: RoundStats, round_s: float) -> None:
        if self._bar is None:
            self._bar = tqdm(
                total=self._rounds.stop,
                initial=stats.round_idx,
                unit="round",
                file=self._stream,
                dynamic_ncols=True,
            )
        self._bar.set_postfix_str(
            f"{loss_text(stats)}{left_out(stats)}, {round_s:.2f} s", refresh=False
        )
        self._bar.update()

    def _say(self, text: str) -> None:
        tqdm.write(text, file=self._stream)
        self._stream.flush()


def loss_text(stats: RoundStats) -> str:
    """Return the loss of a round, which a private one keeps to itself."""
    return "private" if stats.loss is None else f"loss {stats.loss:.4f}"


def left_out(stats: RoundStats) -> str:
    """Return the number of dropped clients of a round, or "" without any."""
    return f" ({stats.num_dropped} dropped)" if stats.num_dropped else ""


def evaluation_line(evaluation: Evaluation, floor: float) -> str:
    """Return one evaluation's means: KID and its floor, class distance, held-out losses."""
    metrics, parts = evaluation.metrics(), list[str]()
    if "pretrain/kid/mean" in metrics:
        parts.append(f"KID {metrics['pretrain/kid/mean']:.4g} (floor {floor:.3g})")
    if "pretrain/tv/mean" in metrics:
        parts.append(f"TV {metrics['pretrain/tv/mean']:.3f}")
    losses = [
        f"{name} {metrics[key]:.4f}"
        for name in ("own", "zero", "swapped")
        if (key := f"pretrain/heldout/{name}") in metrics
    ]
    told = ", ".join([*parts, "held-out loss " + " / ".join(losses)])
    return f"round {evaluation.round_idx}: {told}"
