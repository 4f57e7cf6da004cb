"""What a configuration owes to other packages: its fingerprint, and where it can run."""

import dataclasses
from collections.abc import Callable

import pytest

from pipeline.config.data import OTHER_DATASETS
from pipeline.config.load import load_config
from pipeline.config.meaning import fingerprint, pretrain_fingerprint
from pipeline.config.plugins import ALL_PLUGINS
from pipeline.config.schema import Config
from spire_core.config.eval import OTHER_METRICS
from spire_core.config.method import OTHER_METHODS
from spire_core.config.partition import OTHER_PARTITIONS
from spire_core.methods import METHODS

WORDS = ("method=mine", "data=bars", "partition=parity", "eval.metrics=[gap]")


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """Registers a method, a data set and a metric, and returns a configuration with them."""

    def with_versions(
        method: str = "1", data: str = "1", partition: str = "1", metric: str = "1", **record
    ) -> Config:
        for plugins in ALL_PLUGINS:
            monkeypatch.setattr(plugins, "_found", {})
        mine = dataclasses.replace(METHODS["spire"], name="mine", **record)
        OTHER_METHODS.register("mine", mine, method)
        OTHER_DATASETS.register("bars", lambda split, path: None, data)
        OTHER_PARTITIONS.register("parity", lambda labels, config, num, rng: [], partition)
        OTHER_METRICS.register("gap", lambda drawn, real: 0.0, metric)
        return load_config("smoke", WORDS)

    return with_versions


def test_versions_are_a_part_of_the_fingerprint(registered: Callable[..., Config]) -> None:
    versions = [{}, {"method": "2"}, {"data": "2"}, {"partition": "2"}, {"metric": "2"}]
    whole = [fingerprint(registered(**changed)) for changed in versions]
    assert len({*whole}) == 5
    of_rounds = [pretrain_fingerprint(registered(**changed)) for changed in versions]
    assert of_rounds[0] == of_rounds[1] == of_rounds[4]
    assert len({*of_rounds}) == 3
    for function in ("penalty", "loss", "network", "weight", "server_step"):
        own = [{function: max, **changed} for changed in versions]
        assert len({pretrain_fingerprint(registered(**changed)) for changed in own}) == 4


def test_a_method_that_rounds_cannot_tell_from_ours_shares_its_pretraining(
    registered: Callable[..., Config],
) -> None:
    config = registered()
    ours = dataclasses.replace(config, method=load_config("smoke").method)
    assert fingerprint(config) != fingerprint(ours)
    assert pretrain_fingerprint(config) == pretrain_fingerprint(ours)
