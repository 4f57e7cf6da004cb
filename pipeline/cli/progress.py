"""The progress of an experiment on stderr: a bar in a terminal, a few lines elsewhere."""

import math
import sys
import time
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from pipeline.evaluation.scores import Evaluation
from pipeline.experiment.watcher import Watcher
from pipeline.federation.driver import Driver
from pipeline.federation.rounds import RoundStats
from pipeline.runs.record import read_record

NUM_LINES = 10  # for the rounds of a run whose stderr is not a terminal
SCORES = {"KID": "pretrain/kid/mean", "TV": "pretrain/tv/mean"}  # that are shown
SCORES |= {f"held-out {kind}": f"pretrain/heldout/{kind}" for kind in ("own", "zero")}


class Progress(Watcher):
    """Shows stages, rounds (loss, seconds per round, time left) and one line per evaluation."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._bar = tqdm(disable=True)

    def started(self, run_dir: Path) -> None:
        """Show the run's name, with which it can be resumed, and its id on another storage."""
        super().started(run_dir)
        record = read_record(run_dir)
        is_copied = record["config"]["tracking"]["storage"] is not None
        told = f", on its storage {record['run_id']}" if is_copied else ""
        self._say(f"run {run_dir.name} in {run_dir}{told}")

    def stage(self, text: str) -> None:
        """Show the stage that begins."""
        self.close()
        self._say(text)

    def begin_rounds(self, rounds: range) -> None:
        """Begin the bar, and measure a resumed run by the rounds of this process alone."""
        self._rounds, self._began = rounds, time.monotonic()
        if self._stream.isatty():
            shape = {"total": rounds.stop, "initial": rounds.start, "unit": "round"}
            self._bar = tqdm(file=self._stream, dynamic_ncols=True, **shape)

    def after_round(self, stats: RoundStats, driver: Driver) -> None:
        """Show the end of a round: its loss, which a private one keeps to itself, and its time."""
        told = "private" if stats.loss is None else f"loss {stats.loss:.4f}"
        told += f" ({stats.num_dropped} dropped)" if stats.num_dropped else ""
        told += f", {stats.train_s + stats.aggregate_s:.2f} s"
        self._bar.set_postfix_str(told, refresh=False)
        self._bar.update()
        done, num_rounds = stats.round_idx + 1, self._rounds.stop
        tenth, before = (n * NUM_LINES // num_rounds for n in (done, stats.round_idx))
        if self._bar.disable and (done == num_rounds or tenth > before):
            mean_s = (time.monotonic() - self._began) / (done - self._rounds.start)
            left = tqdm.format_interval(mean_s * (num_rounds - done))
            self._say(f"round {done}/{num_rounds}  {told}, {left} left")
        super().after_round(stats, driver)

    def evaluated(self, evaluation: Evaluation, floor: float) -> None:
        """Show the means of an evaluation: KID and its floor, class distance, held-out losses."""
        found = evaluation.metrics()
        told = [f"{title} {found[key]:.4g}" for title, key in SCORES.items() if key in found]
        known = "" if math.isnan(floor) else f" (KID's floor {floor:.3g})"
        self._say(f"round {evaluation.round_idx}: {', '.join(told)}{known}")

    def close(self) -> None:
        """End the bar, if there is one; later output starts on a new line."""
        self._bar.close()
        self._bar = tqdm(disable=True)

    def _say(self, text: str) -> None:
        tqdm.write(text, file=self._stream)
        self._stream.flush()
