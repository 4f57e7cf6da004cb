"""The setting that an unknown key may mean: by its letters, by other words for it, or none."""

import pytest

from pipeline.config.build import known_keys
from pipeline.config.key_hints import LAST, SETTINGS, WHOLE, key_hint
from pipeline.config.schema import Config
from pipeline.theory.config import load_theory
from spire_core.errors import ConfigError
from sweeps.design.config import SweepConfig

KNOWN = list(known_keys(Config))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("client.leraning_rate", "client.lr"),
        ("Client.lr", "client.lr"),
        ("fedration.tau", "federation.tau"),
        ("tracking_uri", "tracking.uri"),
        ("sede", "seed"),
        ("batchsize", "client.batch_size or adapt.batch_size or privacy.adapt.batch_size or eval."),
        ("federation.fraction_fit", "federation.cohort_size"),
        ("partition.num_partitions", "federation.num_clients"),
        ("num_workers", "resources.num_actors"),
        ("server.strategy", "method.name"),
    ],
)
def test_a_similar_key_or_another_librarys_word_is_meant(name: str, meant: str) -> None:
    assert key_hint(name, KNOWN).startswith(f"did you mean {meant}")


@pytest.mark.parametrize(
    "name", ["client.optimizer", "backend", "wibble", "model.depth", "data.split", "wandb", "gpu"]
)
def test_an_unrelated_word_is_sent_to_the_list(name: str) -> None:
    assert key_hint(name, KNOWN) == SETTINGS


def test_each_word_means_a_key_that_there_is() -> None:
    known = {*KNOWN, *known_keys(SweepConfig), "method", ""}
    words = known | {key.rpartition(".")[2] for key in known}
    assert {*WHOLE.values(), *LAST.values()} <= words


def test_a_sweeps_own_key_is_meant() -> None:
    known = list(known_keys(SweepConfig))
    assert key_hint("num_samples", known) == "did you mean num_trials?"


@pytest.mark.parametrize("word", ["foo=1", "client.lr=1"])
def test_the_theory_names_where_its_own_settings_are(word: str) -> None:
    with pytest.raises(ConfigError, match=r"got '.*': --dry-run alone lists them \(docs/theory"):
        load_theory("theorem", [word])
