"""What a run takes over of the record of another, whose pre-training it reuses."""

from pathlib import Path

from pipeline.experiment.reuse import pretraining_points
from pipeline.results.metric_names import EPSILON, FINAL_STEP
from pipeline.tracking.outbox import Outbox


def test_points_of_rounds_are_taken_over_with_the_privacy_that_they_spent(tmp_path: Path) -> None:
    rounds = [(step, {"pretrain/loss": 1.0 / step, EPSILON: float(step)}) for step in (1, 2)]
    of_new_clients = {"final/adapt_kid_after": 1.0, EPSILON: 8.0}
    Outbox(tmp_path).append_points([*rounds, (FINAL_STEP, of_new_clients)])
    assert pretraining_points(tmp_path) == rounds
