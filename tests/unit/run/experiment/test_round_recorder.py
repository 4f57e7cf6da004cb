"""What a run records of a round."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from pipeline.config.federation import FederationConfig
from pipeline.experiment.pretraining import RoundRecorder
from pipeline.federation.rounds import RoundStats
from spire_core.config.privacy import PrivateRoundsConfig
from spire_core.privacy.guarantee import RoundsGuarantee, rounds_guarantee

PRIVATE = PrivateRoundsConfig(epsilon=2.0)
LOAD = {"system/network_transmit_megabytes": 7.0}


def recorded(guarantee: RoundsGuarantee | None) -> dict[str, float]:
    """Return the metrics of the last one of three rounds."""
    found: dict[str, float] = {}
    tracker: Any = SimpleNamespace(log_metrics=lambda metrics, step: found.update(metrics))
    load: Any = SimpleNamespace(sample=lambda: LOAD)
    recorder = RoundRecorder(tracker, FederationConfig(num_rounds=3, tau=1), guarantee, load)
    counts = (0, 0, 4, 0, 1.0, 0.1, 0.1, 0.0)
    recorder.after_round(RoundStats(2, None, *counts), cast("Any", None))
    return found


def test_the_machines_load_is_recorded_except_in_private_rounds() -> None:
    """A cohort that a secret key draws moves the memory in use, and the bytes on the network."""
    plain = recorded(None)
    assert plain["memory/rss_bytes"] > 2**20
    assert plain.items() >= LOAD.items()
    guarantee = rounds_guarantee(PRIVATE, 1000, 1000, 3)
    assert guarantee is not None
    private = recorded(guarantee)
    assert plain.keys() - private.keys() == {"memory/rss_bytes", *LOAD}
    assert private["privacy/epsilon"] == pytest.approx(guarantee.spent(3))
