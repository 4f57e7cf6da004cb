"""The records that the stages of an experiment return, and the result that they make up."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.evaluation.diagnosis import Diagnosis
from pipeline.evaluation.scores import Evaluation, RealData
from pipeline.federation.messages import AdaptReport, ControlScores
from pipeline.federation.rounds import promise_to_clients
from pipeline.federation.setup import FederationSetup
from spire_core.privacy.guarantee import Guarantee

SHOWN = ("client_id", "kid_before", "kid_after", "kid_floor", "heldout_before", "heldout_after")


@dataclass(frozen=True)
class Pretraining:
    """The backbone (P,) that clients are given to use, its evaluations, each round's loss.

    `controls`: with `eval.controls`, for the first clients of the last evaluation the scores of
    their controls by name, their own draws among them.
    """

    weights: np.ndarray
    evaluations: tuple[Evaluation, ...] = ()
    losses: tuple[float, ...] = ()
    controls: tuple[Mapping[str, ControlScores], ...] = ()


@dataclass(frozen=True)
class Adaptation:
    """Reports and forgetting curves of the new clients, in the same order.

    `cross_kid`: KID of the samples of client i (row) against the data of client j (column), for
    the first evaluated pre-training clients and new ones. `controls`: with text, the scores of each
    control by its name, for each new client. `image_controls`: likewise with `eval.controls`.
    """

    reports: tuple[AdaptReport, ...] = ()
    curves: tuple[pd.DataFrame, ...] = ()
    cross_kid: pd.DataFrame | None = None
    controls: tuple[Mapping[str, Mapping[str, float]], ...] = ()
    image_controls: tuple[Mapping[str, ControlScores], ...] = ()

    @property
    def weakest_guarantee(self) -> Guarantee | None:
        """One that holds for each new client: the largest epsilon, at the largest delta."""
        guarantees = [report.guarantee for report in self.reports if report.guarantee]
        if not guarantees:
            return None
        weakest = max(guarantees, key=lambda g: (g.epsilon, g.delta))
        return replace(weakest, delta=max(g.delta for g in guarantees))


@dataclass(frozen=True)
class Result:
    """A finished experiment.

    `cross_losses`: see `cross_client_losses`; `tuned`: see `finetune_clients`. Both are None where
    the method has nothing of the kind.
    """

    run_id: str
    run_dir: Path
    setting: FederationSetup
    real: RealData
    pretraining: Pretraining
    cross_losses: pd.DataFrame | None
    tuned: Evaluation | None
    adaptation: Adaptation
    diagnoses: tuple[Diagnosis, ...]
    metrics: Mapping[str, float]
    state_fingerprint: str

    @property
    def promise(self) -> str:
        """What is promised to the run's clients, or to its new ones, in words; empty if nothing."""
        promise = promise_to_clients(self.setting.config) or self.adaptation.weakest_guarantee
        return promise.sentence if promise else ""

    def _repr_html_(self) -> str:
        """Return new clients' scores and what they draw, as a notebook shows them."""
        from pipeline.figures.image_grids import inline
        from pipeline.results.pictures import samples_grid
        from pipeline.results.tables import new_clients

        clients = new_clients(self.adaptation, self.real, self.setting.config.eval.kid_subset_size)
        if len(clients):
            clients["client_id"] = [self.setting.label(one) for one in clients["client_id"]]
        table = clients.reindex(columns=[*SHOWN]).dropna(axis="columns", how="all")
        text = table.to_html(index=False, float_format="{:.3g}".format)
        return f"<b>{self.run_dir.name}</b>{text}<img src={inline(samples_grid(self))!r}>"
