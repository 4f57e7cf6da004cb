"""Where Ray is looked for."""

import pytest

from pipeline.cluster.session import cluster
from spire_core.errors import ClusterError


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("http://127.0.0.1:8265", "expected RAY_ADDRESS as the HOST:PORT"),
        ("127.0.0.1:9", "expected a Ray head at RAY_ADDRESS=127"),
    ],
)
def test_an_address_that_is_no_heads_is_refused_at_once(
    address: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match=told), cluster():
        raise AssertionError
