"""One real Ray instance on loopback, shared by all tests of this folder."""

from collections.abc import Iterator

import pytest

from pipeline.cluster.session import cluster


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    with cluster(num_cpus=4):
        yield
