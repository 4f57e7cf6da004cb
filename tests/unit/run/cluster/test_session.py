"""Where Ray is looked for."""

import pytest

from pipeline.cluster.session import cluster
from spire_core.errors import ClusterError


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "127.0.0.1:9"])
def test_an_address_that_is_no_heads_is_refused_at_once(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match="expected RAY_ADDRESS as the HOST:PORT"), cluster():
        raise AssertionError
