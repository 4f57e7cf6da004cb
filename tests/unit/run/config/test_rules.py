"""Rules between groups of settings; each that protects a promise of privacy is a case here."""

import numpy as np
import pytest
from scipy.stats import binom

from pipeline.config.load import load_config
from pipeline.config.meaning import load_typed
from pipeline.config.rules import RARE, _chance_of_few, _chance_of_loss
from spire_core.errors import AggregationError, ConfigError
from spire_core.secure_sum.keys import ClientSecrets
from spire_core.secure_sum.protocol import SumPlan, require_threshold

SECURE = "federation.secure_aggregation=true"
FIT = "privacy.adapt.epsilon=4"
ROUNDS = "client.opt_state=reset client.engine=loop privacy.rounds.epsilon=8"
LARGE = "federation.num_clients=40 federation.cohort_size=20 federation.num_rounds=20"


@pytest.mark.parametrize(
    ("fine", "last", "told"),
    [
        # What a fit with noise would tell beside it, or what noise would not protect.
        (FIT, "method=fedavg", "train one part with privacy.adapt.epsilon, got fedavg"),
        (FIT, "adapt.early_stopping=true", "adapt.early_stopping=false with privacy.adapt"),
        (FIT, "adapt.guidance=[1,2]", "adapt.guidance=null with privacy.adapt"),
        (FIT, "method=local", "privacy.adapt.clip_norm with method=local"),
        (f"{FIT} privacy.adapt.mechanism=one_release", "method=shared_rep", "train an embedding"),
        # What private rounds would tell beside the noisy sum.
        (ROUNDS, "method=local", "a method with rounds with privacy.rounds"),
        (ROUNDS, FIT, "privacy.adapt.epsilon=null with privacy.rounds"),
        (ROUNDS, "adapt.init=mean", "adapt.init=zero or random"),
        (f"{ROUNDS} method=shared_rep", "adapt.local_init=mean", "adapt.local_init=shared"),
        (ROUNDS, "client.opt_state=average", "client.opt_state=reset with privacy.rounds"),
        (ROUNDS, "client.compression=int8", "client.compression=none with privacy.rounds"),
        (ROUNDS, "client.engine=grouped", "client.engine=loop with privacy.rounds"),
        (ROUNDS, "client.engine=auto", "client.engine=loop with privacy.rounds"),
        (ROUNDS, "privacy.rounds.noise_cohort=1", r"noise_cohort in 4\.\.6, got 1"),
        (ROUNDS, "privacy.rounds.noise_cohort=7", r"noise_cohort in 4\.\.6, got 7"),
        (ROUNDS, SECURE, "a chance of at most 1e-06 of fewer than 3 clients"),
        # What the sum of too few, or one of another form, would tell.
        (SECURE, "federation.cohort_size=2", "federation.cohort_size of at least 3"),
        (SECURE, "client.compression=bf16", "client.compression=none with federation.secure"),
        (SECURE, "federation.drop_rate=0.1", "too few clients of some round stay"),
        # What looks private and is not.
        ("", "privacy.noise_key=a", "privacy.noise_key counts with privacy.adapt.epsilon or"),
        ("", "privacy.rounds.clip_norm=1", "counts with privacy.rounds.epsilon alone"),
        ("", "privacy.adapt.steps=9", "counts with privacy.adapt.epsilon alone"),
        (
            f"{FIT} privacy.adapt.batch_size=9",
            "privacy.adapt.mechanism=one_release",
            "privacy.adapt.batch_size counts with privacy.adapt.mechanism=dp_sgd alone",
        ),
        (FIT, "privacy.noise_key=given:0123456789abcdef", "privacy.noise_key as the key itself"),
        (ROUNDS, "privacy.noise_key=given:0123456789abcdef", "privacy.noise_key as the key itself"),
        # Numbers that are no budget, no bound.
        ("", "privacy.adapt.epsilon=0", r"privacy.adapt.epsilon in \(0, 100\], got 0"),
        ("", "privacy.rounds.epsilon=0", r"privacy.rounds.epsilon in \(0, 100\], got 0"),
        ("", "privacy.adapt.delta=1", r"privacy.adapt.delta in \(0, 1\), got 1"),
        ("", "privacy.rounds.delta=1", r"privacy.rounds.delta in \(0, 1\), got 1"),
        ("", "privacy.adapt.clip_norm=1e-31", "privacy.adapt.clip_norm in"),
        ("", "privacy.rounds.clip_norm=0", "privacy.rounds.clip_norm in"),
        ("", "privacy.rounds.clip_quantile=1", r"clip_quantile in \(0, 1\), got 1"),
    ],
)
def test_no_promise_of_privacy_is_broken(fine: str, last: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_typed("smoke", [*fine.split(), last])
    load_typed("smoke", [word for word in fine.split() if "batch_size" not in word])


@pytest.mark.parametrize(
    "words",
    [
        f"{ROUNDS} client.engine=grouped privacy.noise_key=a",  # a simulation may have groups
        f"{ROUNDS} client.engine=grouped privacy.rounds.noise_cohort=5",
        f"{ROUNDS} {LARGE} federation.num_clients=1000 {SECURE}",
        f"{SECURE} {LARGE} federation.drop_rate=0.02",
        f"{SECURE} method=local federation.drop_rate=0.9",
        f"{FIT} privacy.adapt.delta=0.001",
        "privacy.adapt.delta=null",
    ],
)
def test_what_keeps_a_promise_is_taken(words: str) -> None:
    load_typed("smoke", words.split())


@pytest.mark.parametrize(
    ("fine", "last", "told"),
    [
        ("method=shared_rep method.phases=alternate", "federation.tau=1", "tau of at least 2"),
        ("client.prox_mu=0.1", "federation.tau=1", "tau of at least 2 with client.prox_mu"),
        ("method=local", "adapt.guidance=[1,2]", "a method with pre-training with adapt.guidance"),
        ("eval.extractor=none", "adapt.guidance=[1,2]", "an eval.extractor with adapt.guidance"),
        ("", "adapt.guidance=[1,1]", "2 to 16 different scales as adapt.guidance"),
        ("", "method=retrofit", "model.backbone=FOLDER with method=retrofit"),
        ("model.backbone=there", "method=shared_rep", "a method without local layers"),
        ("model.backbone=there", "client.engine=grouped", "client.engine=auto or loop"),
        ("model.backbone=there", "client.emb_init_std=0", "client.emb_init_std above 0"),
        ("model.text=words model.words=[a]", "eval.text_guidance=2", "text_dropout above 0"),
        ("method=local", "federation.num_new_clients=0", "num_new_clients of at least 1"),
        ("", "partition=natural", "data.name as fonts or folder with partition=natural"),
        ("diffusion.schedule=linear", "diffusion.num_timesteps=20000", "at most 8632"),
        ("eval.reference=test_split", "data=fonts", "images of the same kind"),
        ("eval.reference=test_split", "partition.style=tint", "partition.style=none with"),
    ],
)
def test_settings_that_could_not_train_or_draw_are_refused(fine: str, last: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config("smoke", [*fine.split(), last])
    load_config("smoke", fine.split())


def test_cohorts_of_twenty_are_enough_in_any_population() -> None:
    """The chance grows with the population, towards that of Poisson's distribution."""
    chances = [_chance_of_few(num_clients, 20) for num_clients in (20, 40, 1000, 10**6, 10**8)]
    assert chances == sorted(chances)
    assert chances[-1] < RARE < _chance_of_few(10**8, 19)


@pytest.mark.parametrize("num_members", [3, 9, 20, 65])
def test_the_chance_of_a_lost_sum_is_that_of_the_protocol(num_members: int) -> None:
    """Counted over draws of who stays, by the very check that ends a run."""
    words = [f"federation.num_clients={num_members}", f"federation.cohort_size={num_members}"]
    config = load_config("smoke", [*words, "federation.num_rounds=1", "federation.drop_rate=0.25"])
    secrets = {c: ClientSecrets(b"k" * 32, "s", c).public for c in range(num_members)}
    plan, rng, lost, num_draws = SumPlan("a sum", secrets), np.random.default_rng(0), 0, 400
    for _ in range(num_draws):
        remaining = np.flatnonzero(rng.random(num_members) >= 0.25).tolist()
        try:
            require_threshold(plan, remaining)
        except AggregationError:
            lost += 1
    low, high = binom.interval(0.999, num_draws, _chance_of_loss(config))
    assert low <= lost <= high
    assert 0 < lost < num_draws


def test_drawn_cohorts_have_the_mean_over_their_sizes() -> None:
    def chance(num_clients: int, cohort_size: int, *words: str) -> float:
        sizes = f"federation.num_clients={num_clients} federation.cohort_size={cohort_size}"
        fixed = f"{sizes} federation.num_rounds=1 federation.drop_rate=0.05"
        return _chance_of_loss(load_config("smoke", [*fixed.split(), *words]))

    sizes = range(1, 66)
    drawn = binom.pmf(sizes, 100, 0.2)
    expected = sum(p * chance(k, k) for p, k in zip(drawn, sizes, strict=True))
    assert chance(100, 20, *ROUNDS.split()) == pytest.approx(expected, rel=1e-3)
