"""One real Ray instance on loopback for all tests of a file.

It ends with them: the tests of a watch put fakes in the place of Ray, and would have an open one
end their process.
"""

from collections.abc import Iterator

import pytest

from pipeline.cluster.session import cluster


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    with cluster(num_cpus=4):
        yield
