"""What an experiment has found out so far; each stage of it adds its own."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.evaluation.diagnosis import Diagnosis
from pipeline.evaluation.forgetting import ForgettingCurve
from pipeline.evaluation.scores import Evaluation, RealData
from pipeline.federation.messages import AdaptReport
from pipeline.federation.setup import Setting


@dataclass
class Result:
    """What an experiment found out, and where it lies."""

    run_id: str
    run_dir: Path
    setting: Setting
    real: RealData
    evaluations: list[Evaluation] = field(default_factory=list)
    reports: list[AdaptReport] = field(default_factory=list)
    curves: list[ForgettingCurve] = field(default_factory=list)
    matrix: np.ndarray | None = None
    cross_ids: list[int] = field(default_factory=list)
    cross_losses: np.ndarray | None = None  # of these clients, `cross_client_losses`
    tuned: Evaluation | None = None  # of pre-training clients after fine-tuning, see `tune`
    diagnoses: list[Diagnosis] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    state_fingerprint: str = ""
