"""Where Ray is looked for."""

import pytest

from pipeline.cluster.session import starting_cluster
from spire_core.errors import ClusterError


def test_the_dashboards_address_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:8265")
    wanted = pytest.raises(ClusterError, match="expected RAY_ADDRESS as the HOST:PORT")
    with wanted, starting_cluster():
        raise AssertionError
