"""Settings of a new run that would have no effect, or a wrong one, are refused, and no others."""

import pytest

from pipeline.config.effect import load_typed
from pipeline.config.load import load_config, preset_names
from spire_core.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ("model.words=[a]", "model.text=words with"),
        ("model.text=sentences model.words=[a]", "model.text=words with"),
        ("model.text_dim=8", "model.text=sentences with"),
        ("eval.text_guidance=2", "model.text=words or sentences with"),
        ("client.text_dropout=0.1", "model.text=words or sentences with"),
        ("data.captions=title", "data.metadata=FILE with"),
        ("server.momentum=0.5", "server.optimizer=fedavgm or fedadam with"),
        ("client.opt_state=keep client.private_moments=none", "client.opt_state=average with"),
        ("client.top_k_fraction=0.5", "client.compression=top_k with"),
        ("client.engine=loop client.group_size=3", "client.engine=grouped with"),
        ("model.dropout=0.1 adapt.group_size=3", "model.dropout=0 with"),
        ("model.backbone=there model.width=64", "model.backbone=null with"),
        ("method.entrance=blocks", "model.backbone=FOLDER with"),
        ("adapt.patience=9", "adapt.early_stopping=true with"),
        ("partition.alpha=0.5", "partition=inner_dirichlet, dirichlet or independent with"),
        ("partition=iid partition.classes_per_client=3", "partition=pathological with"),
        ("eval.extractor=none eval.kid_num_subsets=2", "an eval.extractor with"),
        ("eval.extractor=none eval.reference=test_split", "an eval.extractor with"),
        ("privacy.noise_key=a", "privacy.adapt.epsilon or privacy.rounds.epsilon with"),
        ("privacy.adapt.delta=0.1", "privacy.adapt.epsilon with"),
        ("privacy.rounds.clip_norm=0.1", "privacy.rounds.epsilon with"),
        ("privacy.adapt.epsilon=4 adapt.epochs=9", r"did you mean privacy\.adapt\.steps"),
        (
            "privacy.adapt.epsilon=4 privacy.adapt.mechanism=one_release adapt.eval_every=2",
            "privacy.adapt.mechanism=dp_sgd with",
        ),
        ("resources.pool=local resources.num_gpus=1", "resources.pool=ray with"),
        ("resources.pool=local resources.num_actors=2", "resources.pool=ray with"),
        ("resources.pool=local resources.num_cpus=0.5", "resources.pool=ray with"),
        ("tracking.enabled=false tracking.uri=http://there:1", "tracking.enabled=true with"),
        ("tracking.enabled=false tracking.experiment=mine", "tracking.enabled=true with"),
        ("data=folder data.path=a data.image_size=8 data.root=b", "did you mean data.path?"),
        ("resources.pool=local federation.client_timeout_s=9", "resources.pool=ray with"),
    ],
)
def test_what_another_setting_switches_off_is_refused(words: str, needed: str) -> None:
    load_config("smoke", words.split())  # no rule forbids it: trials of a sweep may have it
    with pytest.raises(ConfigError, match=needed):
        load_typed("smoke", words.split())


@pytest.mark.parametrize(
    "words",
    [
        "privacy.adapt.delta=null",  # its default
        "privacy.adapt.epsilon=4 privacy.adapt.delta=0.001",
        "method=fedavg_ft model.d_emb=7",  # what a method never reads may be given to all of them
        "method=fedavg adapt.early_stopping=false adapt.patience=9",
        "method=local client.top_k_fraction=0.5",
        "resources.pool=local resources.num_actors=auto resources.num_gpus=0",
        "tracking.enabled=false tracking.root=a tracking.run_name=b tracking.keep_checkpoints=9",
        "tracking.enabled=false tracking.log_model=false",  # which is what happens
        "data.root=a",
        "client.group_size=3",  # its network is narrow: auto groups
    ],
)
def test_what_counts_or_belongs_to_other_methods_is_taken(words: str) -> None:
    assert load_typed("smoke", words.split()) == load_config("smoke", words.split())


def test_the_experiment_is_not_mlflows_own_whose_artifacts_lie_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    words = ["tracking.experiment=Default"]
    load_config("smoke", words)  # finished runs may have it
    with pytest.raises(ConfigError, match=r"another tracking\.experiment than Default"):
        load_typed("smoke", words)
    load_typed("smoke", [*words, "tracking.uri=http://127.0.0.1:5000"])


@pytest.mark.parametrize(("key", "most"), [("experiment", 256), ("run_name", 250)])
def test_a_name_fits_into_a_database(key: str, most: int) -> None:
    fits, long = (f"tracking.{key}={'x' * size}" for size in (most, most + 1))
    load_typed("smoke", [fits])
    load_config("smoke", [long])  # a run that has begun in SQLite may have it
    sentence = rf"at most {most} characters in tracking\.{key}, got {most + 1}: choose"
    with pytest.raises(ConfigError, match=sentence):
        load_typed("smoke", [long])


@pytest.mark.parametrize("text", ["model.text=words", "model.text=sentences model.words=[]"])
def test_prompts_are_not_guided_away_from_a_null_text_that_no_round_trains(text: str) -> None:
    words = [*text.split(), "client.text_dropout=0"]
    load_config("fonts-cpu", words)  # finished runs may have it
    with pytest.raises(ConfigError, match=r"client\.text_dropout above 0 with .*=2\.0, got 0\.0"):
        load_typed("fonts-cpu", words)
    load_typed("fonts-cpu", [*words, "eval.text_guidance=1"])
    for scale in ("2", "1"):  # without rounds to train it, nothing is guided
        local = load_typed("fonts-cpu", [*words, "method=local", f"eval.text_guidance={scale}"])
        assert local.text_guidance == 1.0
    load_typed("fonts-cpu", [*text.split(), "client.text_dropout=0.01"])
    load_typed("fonts-cpu", ["model.text=none", "client.text_dropout=0"])


@pytest.mark.parametrize("words", ["method.episodes=1", "client.emb_init_std=0"])
def test_an_embedding_and_its_map_into_a_model_do_not_both_stay_zero(words: str) -> None:
    settings = [words, "client.emb_first_steps=2", "client.engine=auto"]
    load_typed("smoke", settings)  # the map into our own network is not zero at first
    settings += ["model.backbone=there", "method=retrofit"]
    load_config("smoke", settings)  # finished runs may have it
    with pytest.raises(ConfigError, match="expected embeddings that are not all zero at first"):
        load_typed("smoke", settings)
    load_typed("smoke", [*settings, "client.emb_noise=0.1"])
    load_typed("smoke", [*settings, "method.projection=random"])


PRIVATE = ("privacy.rounds.epsilon=8", "client.opt_state=reset")


@pytest.mark.parametrize("words", ["", "client.engine=grouped", "privacy.rounds.noise_cohort=4"])
def test_private_rounds_do_not_begin_in_groups(words: str) -> None:
    """Nothing bounds how far a client moves the others of its group: epsilon does not have it."""
    settings = [*PRIVATE, *words.split()]
    load_config("smoke", settings)  # runs that began so go on
    with pytest.raises(ConfigError, match=r"^expected client\.engine=loop with privacy\.rounds"):
        load_typed("smoke", settings)


@pytest.mark.parametrize(
    "words",
    [
        "client.engine=loop",
        "model.width=64",
        "privacy.noise_key=a",
        "federation.cohort_size=3 privacy.rounds.noise_cohort=4",
    ],
)
def test_private_rounds_begin_in_a_loop_or_as_a_simulation(words: str) -> None:
    load_typed("smoke", [*PRIVATE, *words.split()])


@pytest.mark.parametrize("name", preset_names())
def test_a_presets_own_settings_need_not_count(name: str) -> None:
    config = load_config(name)
    off = ["model.text=none"] if config.model.text == "words" else ["partition=iid"]
    if config.partition.name != "natural":
        load_typed(name, off)
    load_typed(name, [])
