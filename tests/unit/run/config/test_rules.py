"""Rules between groups of settings; each that protects a promise of privacy is a case here."""

import dataclasses

import pytest

from pipeline.config.load import load_config
from pipeline.config.meaning import load_typed
from spire_core.config.method import OTHER_METHODS
from spire_core.errors import ConfigError
from spire_core.methods import METHODS

SECURE = "federation.secure_aggregation=true"
FIT = "privacy.adapt.epsilon=4"
OWN = dataclasses.replace(METHODS["spire"], name="own", loss=max, weight=max)
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
        (
            f"{FIT} model.num_embs=2",
            "privacy.adapt.mechanism=one_release",
            "dp_sgd with model.num_embs above 1",
        ),
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
        (ROUNDS, SECURE, "of fewer than 3 clients in a round's sum"),
        (ROUNDS, "method=own", "without weights of its own with privacy.rounds"),
        (SECURE, "method=own", "without weights of its own with federation.secure"),
        (FIT, "method=own", "without a loss of its own with privacy.adapt"),
        # What the sum of too few, or one of another form, would tell.
        (SECURE, "federation.cohort_size=2", "federation.cohort_size of at least 3"),
        (SECURE, "client.compression=bf16", "client.compression=none with federation.secure"),
        (SECURE, "federation.drop_rate=0.1", "of fewer than 3 clients in a round's sum"),
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
def test_no_promise_of_privacy_is_broken(
    fine: str, last: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OTHER_METHODS, "_found", {})
    OTHER_METHODS.register("own", OWN, "0")
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
        ("method=local", "adapt.guidance=[1,2]", "a method with pre-training with adapt.guidance"),
        ("", "method=retrofit", "model.backbone=FOLDER with method=retrofit"),
        ("model.backbone=there", "method=shared_rep", "a method without local layers"),
        ("model.text=words model.words=[a]", "eval.text_guidance=2", "text_dropout above 0"),
        ("method=local", "federation.num_new_clients=0", "num_new_clients of at least 1"),
        ("", "partition=natural", "data.name as fonts or folder with partition=natural"),
        ("diffusion.schedule=linear", "diffusion.num_timesteps=20000", "at most 8632"),
        ("eval.reference=test_split", "data=fonts", "images of the same kind"),
    ],
)
def test_settings_that_could_not_train_or_draw_are_refused(fine: str, last: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config("smoke", [*fine.split(), last])
    load_config("smoke", fine.split())
