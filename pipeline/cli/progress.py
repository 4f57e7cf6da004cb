"""The progress of an experiment on stderr: a bar in a terminal, a few lines elsewhere."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from pipeline.evaluation.scores import Evaluation
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import Driver
from pipeline.federation.rounds import RoundStats

NUM_LINES = 10  # for the rounds of a run whose stderr is not a terminal


class Progress(Watcher):
    """Shows stages, rounds (loss, seconds per round, time left) and one line per evaluation."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bar: tqdm | None = None
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
        """Begin the bar, and measure a resumed run by the rounds of this process alone."""
        self._rounds, self._began = rounds, time.monotonic()
        self._bar = tqdm(
            total=rounds.stop,
            initial=rounds.start,
            unit="round",
            file=self._stream,
            dynamic_ncols=True,
            disable=not self._stream.isatty(),
        )

    def after_round(self, stats: RoundStats, driver: Driver) -> None:
        """Show the end of a round: its loss, which a private one keeps to itself, and its time."""
        told = "private" if stats.loss is None else f"loss {stats.loss:.4f}"
        told += f" ({stats.num_dropped} dropped)" if stats.num_dropped else ""
        round_s, num_rounds = stats.train_s + stats.aggregate_s, self._rounds.stop
        if self._bar is not None and not self._bar.disable:
            self._bar.set_postfix_str(f"{told}, {round_s:.2f} s", refresh=False)
            self._bar.update()
            return
        done, tenths = stats.round_idx + 1, NUM_LINES / num_rounds
        if done == num_rounds or int(done * tenths) > int(stats.round_idx * tenths):
            mean_s = (time.monotonic() - self._began) / (done - self._rounds.start)
            left = f"{tqdm.format_interval(mean_s * (num_rounds - done))} left"
            left = ", then ".join([left, *self._later])
            self._say(f"round {done}/{num_rounds}  {told}  {round_s:.2f} s/round  {left}")

    def evaluated(self, evaluation: Evaluation, floor: float) -> None:
        """Show the means of an evaluation: KID and its floor, class distance, held-out losses."""
        found, parts = evaluation.metrics(), list[str]()
        if "pretrain/kid/mean" in found:
            parts.append(f"KID {found['pretrain/kid/mean']:.4g} (floor {floor:.3g})")
        if "pretrain/tv/mean" in found:
            parts.append(f"TV {found['pretrain/tv/mean']:.3f}")
        keys = [f"pretrain/heldout/{name}" for name in ("own", "zero", "swapped")]
        losses = [f"{key.rpartition('/')[2]} {found[key]:.4f}" for key in keys if key in found]
        told = ", ".join([*parts, "held-out loss " + " / ".join(losses)])
        self._say(f"round {evaluation.round_idx}: {told}")

    def close(self) -> None:
        """End the bar, if there is one; later output starts on a new line."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _say(self, text: str) -> None:
        tqdm.write(text, file=self._stream)
        self._stream.flush()
