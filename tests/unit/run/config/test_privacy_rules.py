"""Rules between groups of settings for masks and noise."""

import pytest

from pipeline.config.load import load_config
from spire_core.errors import ConfigError

BOTH = ("federation.secure_aggregation=true", "client.opt_state=reset", "privacy.rounds.epsilon=8")


@pytest.mark.parametrize(
    "words",
    [
        ("federation.cohort_size=6",),  # all of six
        ("federation.num_clients=1000", "federation.cohort_size=20"),
    ],
)
def test_masks_and_noise_go_together_where_cohorts_are_large_enough(words: tuple[str, ...]) -> None:
    assert load_config("smoke", [*BOTH, *words]).federation.secure_aggregation
    with pytest.raises(ConfigError, match=r"^expected federation.cohort_size of at least 3 with"):
        load_config("smoke", [*BOTH, *words, "federation.cohort_size=2"])
