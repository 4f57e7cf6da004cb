"""The clients that stand for all are clients that take part, whatever draws the cohorts."""

import pytest

from pipeline.config.load import load_config
from pipeline.config.schema import Config
from pipeline.federation.setup import (
    NUM_REPRESENTATIVES,
    first_participants,
    has_secret_cohorts,
    public_representatives,
)
from spire_core.federated.participation import choose_cohort, responding_clients, secret_cohort
from spire_core.privacy.noise import SecretNoise, key_of

LARGE = ("partition=independent", "partition.client_size=40", "federation.num_clients=100000")
PRIVATE = ("client.opt_state=reset", "client.engine=loop", "privacy.rounds.epsilon=8")


def config_for(*words: str) -> Config:
    return load_config("smoke", [*LARGE, "federation.num_rounds=40", *words])


def test_public_cohorts_follow_from_the_seed_and_small_populations_stand_for_themselves() -> None:
    config = config_for()
    cohorts = [choose_cohort(100_000, 4, config.seed, round_idx) for round_idx in range(40)]
    expected = [client for cohort in cohorts for client in cohort]
    assert public_representatives(config) == expected[:NUM_REPRESENTATIVES]
    assert public_representatives(config_for("eval.num_clients=150")) == expected[:150]
    small = config_for("federation.num_clients=1000")
    assert public_representatives(small) == list(range(1000))
    large = config_for("federation.num_clients=1001")
    assert len(public_representatives(large)) == NUM_REPRESENTATIVES


@pytest.mark.parametrize("drop_rate", [0.0, 0.5])
def test_secret_cohorts_follow_from_the_key(drop_rate: float) -> None:
    config = config_for(*PRIVATE, f"federation.drop_rate={drop_rate}")
    noise, other = (SecretNoise(key_of(text)) for text in "kl")
    found = first_participants(config, lambda r: secret_cohort(100_000, 4, noise, r))
    cohorts = [secret_cohort(100_000, 4, noise, round_idx) for round_idx in range(40)]
    assert {len(cohort) for cohort in cohorts} > {2, 3, 4, 5}
    chances = (drop_rate, config.seed)
    there = [responding_clients(c, *chances, r, True) for r, c in enumerate(cohorts)]
    pairs = zip(cohorts, there, strict=True)
    assert any(cohort and not some for cohort, some in pairs) == (drop_rate > 0)
    assert found == [client for some in there for client in some][: len(found)]
    assert len(found) == min(NUM_REPRESENTATIVES, sum(map(len, there)))
    others = first_participants(config, lambda r: secret_cohort(100_000, 4, other, r))
    assert len(set(found) & set(others)) < 5


def test_cohorts_of_all_clients_are_no_secret() -> None:
    assert not has_secret_cohorts(config_for())
    assert not has_secret_cohorts(load_config("smoke", [*PRIVATE, "federation.cohort_size=6"]))
    assert has_secret_cohorts(load_config("smoke", [*PRIVATE]))
