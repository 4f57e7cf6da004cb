"""One real Ray instance on loopback for all tests of a file."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cluster.session import cluster
from pipeline.config.plugins import ALL_PLUGINS


@pytest.fixture(scope="module")
def ray_cluster(outside: Path) -> Iterator[None]:
    """Its workers find the package of docs/extending.md among those that are installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(outside), prepend=os.pathsep)
        patch.syspath_prepend(str(outside))
        for plugins in ALL_PLUGINS:  # what it brings is forgotten with it
            patch.setattr(plugins, "_found", {})
        with cluster(num_cpus=4):
            yield
