"""When two configurations mean the same, and what their pre-training has in common."""

import logging
from dataclasses import replace

import pytest

from pipeline.config.load import load_config, preset_names
from pipeline.config.meaning import fingerprint, load_typed, pretrain_fingerprint

FIT = "privacy.adapt.epsilon=4"
ROUNDS = "client.opt_state=reset client.engine=loop privacy.rounds.epsilon=4"


def fingerprints(words: str) -> tuple[str, str]:
    config = load_config("smoke", words.split())
    return fingerprint(config), pretrain_fingerprint(config)


@pytest.mark.parametrize(
    ("given", "unread"),
    [
        ("method=fedavg_ft", "model.d_emb=7 client.emb_lr=1 client.private_moments=none"),
        ("method=fedavg_ft", "adapt.lr=3.0e-4"),  # its own rate, said out loud
        (f"method=fedavg_ft {FIT}", "adapt.pull=0.5"),
        ("method=fedavg", "adapt.epochs=99 adapt.tune_epochs=2"),
        ("method=local", "client.lr=9 federation.num_rounds=99 federation.drop_rate=0.5"),
        ("", "adapt.local_init=mean method.phases=alternate"),  # of local layers
        ("method=lora method.share_adapter=false", "method.local_layers=[norm_out]"),
        ("", "client.engine=grouped"),  # the one that auto takes for a network of this width
        ("", "client.top_k_fraction=0.5 server.momentum=0.1 partition.alpha=3"),
        ("", "resources.num_actors=1 tracking.checkpoint_every=1 data.root=elsewhere"),
        ("", "privacy.adapt.steps=9 privacy.rounds.clip_norm=9 privacy.noise_key=a"),
        ("eval.extractor=none", "eval.reference=test_split eval.controls=true"),
        ("method=retrofit model.backbone=a", "model.width=64 diffusion.prediction=eps"),
        (FIT, "adapt.epochs=9 adapt.lr=0.5 adapt.batch_size=7 adapt.schedule=cosine"),
        (FIT, "privacy.adapt.lr=0.05"),  # the method's own, said out loud
    ],
)
def test_what_nothing_reads_makes_no_difference(given: str, unread: str) -> None:
    assert fingerprints(given) == fingerprints(f"{given} {unread}")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("", "seed=1"),
        ("", "model.d_emb=7"),
        ("", "federation.drop_rate=0.5"),
        ("", "federation.secure_aggregation=true"),
        ("", "client.prox_mu=0.1"),
        ("", "eval.reference=test_split"),  # pre-training is scored as well
        ("client.compression=top_k", "client.top_k_fraction=0.5"),
        ("method=shared_rep", "method.phases=alternate"),
        ("data=folder data.image_size=16 data.path=here", "data.path=there"),
        ("data=fonts partition=natural", "partition.hidden=[A]"),
        (ROUNDS, "privacy.rounds.epsilon=5"),
        (ROUNDS, "privacy.rounds.clip_norm=0.1"),
        (ROUNDS, "privacy.rounds.noise_cohort=5"),
        (ROUNDS, "privacy.noise_key=a"),
        ("eval.guidance=2", "eval.guidance_interval=[0.3,5]"),
    ],
)
def test_what_rounds_read_is_another_pretraining(given: str, read: str) -> None:
    both = zip(fingerprints(given), fingerprints(f"{given} {read}"), strict=True)
    assert all(one != other for one, other in both)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("", "adapt.group_size=3"),
        ("", "adapt.tune_epochs=2"),
        ("", "adapt.guidance=[1,2]"),
        ("", "eval.controls=true"),
        ("adapt.guidance=[1,2]", "eval.guidance_interval=[0.3,5]"),
        ("method=shared_rep", "adapt.local_init=mean"),
        ("method=lora method.share_adapter=false", "adapt.local_init=mean"),
        ("method=fedavg_ft", "adapt.pull=0.5"),
        (FIT, "privacy.adapt.epsilon=5"),
        (FIT, "privacy.adapt.mechanism=one_release"),
        (FIT, "privacy.noise_key=a"),
        (FIT, "adapt.init=mean"),
        (f"{FIT} adapt.tune_epochs=5", "adapt.lr=0.5"),  # at which old clients train on
    ],
)
def test_what_new_clients_read_leaves_pretraining_the_same(given: str, read: str) -> None:
    (whole, rounds), (other, same) = fingerprints(given), fingerprints(f"{given} {read}")
    assert whole != other
    assert rounds == same


def test_pretraining_is_common_to_methods_that_differ_in_adaptation_alone() -> None:
    common = fingerprints("method=fedavg")[1]
    assert common == fingerprints("method=fedavg_ft adapt.epochs=7")[1]
    others = [fingerprints(f"method={name}")[1] for name in ("spire", "lora", "bias", "diffit")]
    assert len({common, *others}) == 5  # adapters order the weights in ways of their own


def test_a_label_stands_for_its_key() -> None:
    config = load_config("smoke", [FIT, "privacy.noise_key=a"])
    stored = replace(config, privacy=config.privacy.labelled())
    assert fingerprint(stored) == fingerprint(config)
    assert fingerprint(config) != fingerprints(f"{FIT} privacy.noise_key=b")[0]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("model.words=[a]", ["model.words counts with model.text=words alone"]),
        ("partition.alpha=0.5 server.momentum=0.5", ["partition.alpha", "server.momentum"]),
        (f"{FIT} method=fedavg_ft adapt.pull=1", ["adapt.pull counts", "privacy.adapt.epsilon"]),
        ("resources.pool=local resources.num_actors=2", ["resources.pool=ray"]),
        ("method=fedavg_ft model.d_emb=7", []),  # all methods may be given the same settings
        ("client.group_size=3 data.root=a", []),
    ],
)
def test_a_setting_without_effect_is_named_in_one_line(
    words: str, told: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        load_typed("smoke", words.split())
    assert len(caplog.messages) == bool(told)
    assert all(one in caplog.messages[0] for one in told)


@pytest.mark.parametrize("name", preset_names())
def test_a_presets_own_settings_need_not_count(name: str, caplog: pytest.LogCaptureFixture) -> None:
    load_typed(name, [])
    assert not caplog.messages
