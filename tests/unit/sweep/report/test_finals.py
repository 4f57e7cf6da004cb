"""The final numbers that a report reads: whose privacy an epsilon is of."""

import pytest

from pipeline.config.tracking import TrackingConfig
from pipeline.results.metric_names import CLIENTS_DELTA, CLIENTS_EPSILON, DELTA, EPSILON
from pipeline.tracking.mlflow_queries import TrackedRun
from spire_core.privacy.guarantee import CLIENT_UNIT, IMAGE_UNIT
from sweeps.report.finals import with_finals


def test_the_time_of_a_fit_is_out_of_its_tag() -> None:
    tags = {"adapt.fit_duration_s": "1.25"}
    run = TrackedRun("r", "r", "FINISHED", {"method.name": "local"}, tags, {}, 0)
    assert with_finals(TrackingConfig(), run).finals["final/adapt_fit_duration_s"] == 1.25


@pytest.mark.parametrize(
    ("unit", "names"),
    [(CLIENT_UNIT, (CLIENTS_EPSILON, CLIENTS_DELTA)), (IMAGE_UNIT, (EPSILON, DELTA))],
)
def test_the_privacy_of_clients_is_not_that_of_a_new_clients_images(
    unit: str, names: tuple[str, str]
) -> None:
    tags, told = {"privacy.unit": unit}, {EPSILON: 8.0, DELTA: 1e-5}
    run = TrackedRun("r", "r", "FINISHED", {"method.name": "local"}, tags, told, 0)
    finals = with_finals(TrackingConfig(), run).finals
    assert finals == {names[0]: 8.0, names[1]: 1e-5, "comm/total_mb": 0.0}
