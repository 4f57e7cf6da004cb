"""The configuration: strict layers, checked values, a fingerprint of what decides the result."""

import dataclasses
import re

import pytest

from pipeline.config.equivalence import fingerprint
from pipeline.config.federation import FederationConfig
from pipeline.config.load import load_config, preset_names, split_override
from pipeline.config.safe_yaml import read_plain, write_value
from pipeline.config.schema import Config, config_from_dict
from spire_core.errors import ConfigError

ODD = ["exp 😀", "/tmp/𠮷", "a\nb\tc", "\x00\x07\x7f\x85\xa0\u2028\ufeff", "👩\u200d🚀", "", "010"]
ODD += ["@id", "*text", "&a", "!x", "/d/a: b: c", "# x", "'\"\\", "1e5", "null", "on", "1:30"]
SECURE = "federation.secure_aggregation=true"
ENCODER = ["model.set_encoder=true", "method.episodes=0.5", "client.emb_first_steps=1"]
PRIVATE = ["client.opt_state=reset", "privacy.rounds.epsilon=8"]


def test_later_layers_win_and_leave_the_rest_alone() -> None:
    preset = load_config("smoke")
    config = load_config("smoke", ["client.lr=0.5", "seed=7", "client.lr=0.25"])
    assert (config.client.lr, config.seed) == (0.25, 7)
    changed = dataclasses.replace(
        config, seed=preset.seed, client=dataclasses.replace(config.client, lr=preset.client.lr)
    )
    assert changed == preset


def test_without_anything_the_defaults_hold() -> None:
    assert load_config(None) == Config()


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid_and_survive_a_round_trip(name: str) -> None:
    config = load_config(name)
    assert config_from_dict(config.as_dict()) == config


def test_round_trip_keeps_what_overrides_set() -> None:
    words = ["method=shared_rep", "method.local_layers=[conv_out]", "client.betas=[0.5,0.9]"]
    config = load_config("smoke", [*words, "adapt.lr=1e-4", "federation.local_epochs=2"])
    assert config_from_dict(config.as_dict()) == config
    assert config.method.local_layers == ("conv_out",)
    assert config.client.betas == (0.5, 0.9)
    assert config.adapt.lr == 1e-4


@pytest.mark.parametrize("group", ["data", "partition", "method"])
def test_a_bare_group_sets_its_name(group: str) -> None:
    name = {"data": "cifar10", "partition": "iid", "method": "fedavg_ft"}[group]
    config = load_config("smoke", [f"{group}={name}"])
    assert getattr(config, group).name == name


def test_a_named_length_of_a_round_withdraws_the_other_of_layers_below() -> None:
    assert load_config("smoke").federation.tau == 3
    by_epochs = load_config("smoke", ["federation.local_epochs=2"]).federation
    assert (by_epochs.tau, by_epochs.local_epochs) == (None, 2)
    assert load_config("mnist").federation.local_epochs == 1
    by_steps = load_config("mnist", ["federation.tau=5"]).federation
    assert (by_steps.tau, by_steps.local_epochs) == (5, None)


def test_both_lengths_of_a_round_in_one_layer_contradict() -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        load_config("smoke", ["federation.tau=1", "federation.local_epochs=1"])
    with pytest.raises(ConfigError, match="give one of them"):
        FederationConfig()


@pytest.mark.parametrize(
    "where", ["resources.num_actors=1", "tracking.root=/x", "data.root=/x", "tracking.run_name=a"]
)
def test_fingerprint_ignores_where_a_run_happens(where: str) -> None:
    assert fingerprint(load_config("smoke", [where])) == fingerprint(load_config("smoke"))


@pytest.mark.parametrize(
    "what", ["seed=1", "method=fedavg", "model.d_emb=8", "adapt.epochs=9", "eval.guidance=1.5"]
)
def test_fingerprint_sees_what_decides_the_result(what: str) -> None:
    assert fingerprint(load_config("smoke", [what])) != fingerprint(load_config("smoke"))


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("client.learning_rate=1", "client.lr"),
        ("fedration.tau=1", "federation.tau"),
        ("adapt.epoch=1", "adapt.epochs"),
        ("sede=1", "seed"),
    ],
)
def test_an_unknown_key_names_the_key_that_was_meant(override: str, near: str) -> None:
    with pytest.raises(ConfigError, match="expected a known key") as caught:
        load_config("smoke", [override])
    assert f"did you mean {near}" in str(caught.value)


def test_an_unknown_nested_key_is_refused_in_a_stored_config_too() -> None:
    values = Config().as_dict()
    values["client"]["rl"] = 1.0
    with pytest.raises(ConfigError, match=r"client\.rl"):
        config_from_dict(values)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("client.batch_size=many", "client.batch_size"),
        ("client.batch_size=1.5", "client.batch_size"),
        ("seed=true", "seed"),
        ("client.betas=[0.9]", "client.betas"),
        ("tracking.enabled=3", "tracking.enabled"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(override: str, key: str) -> None:
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        load_config("smoke", [override])


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("adapt.guidance=2.0", "a list or null for adapt.guidance, got 2.0: such as adapt.guida"),
        ("eval.guidance_interval=2", "got 2: such as eval.guidance_interval=[0.2,5]"),
        ("adapt.guidance=[a]", "adapt.guidance as a list of float values, or null, got ['a']"),
        ("eval.guidance_interval=[1]", "as a list of 2 float values, or null, got [1]: change its"),
        ("resources.num_actors=1.5", "resources.num_actors as a whole number or auto, got 1.5"),
        ("resources.num_gpus=true", "resources.num_gpus as a number or auto, got True"),
        ("data.channels=true", "data.channels as a whole number or auto, got True"),
    ],
)
def test_a_value_of_one_of_several_types_is_described_in_words(
    override: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        load_config("smoke", [override])
    assert load_config("smoke", ["adapt.guidance=null"]).adapt.guidance is None


def test_a_whole_number_is_a_valid_float_and_becomes_one() -> None:
    lr = load_config("smoke", ["client.lr=1"]).client.lr
    assert isinstance(lr, float)


@pytest.mark.parametrize("word", ["client.lr", "=3", ""])
def test_what_is_no_override_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="key=value"):
        load_config("smoke", [word])


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean smoke"):
        load_config("smok")


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("client=3", "client"),
        ("federation=3", "federation"),
        ("model.multipliers=3", "model.multipliers"),
        ("model.multipliers={a: 1}", "model.multipliers"),
    ],
)
def test_a_value_of_another_shape_is_refused_by_name(override: str, key: str) -> None:
    with pytest.raises(ConfigError, match=key.replace(".", r"\.")):
        load_config("smoke", [override])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["diffusion.schedule=linear", "diffusion.num_timesteps=20000"],
            "leaves something of the image .* got linear with diffusion.num_timesteps=20000",
        ),
        (
            ["method=shared_rep", "method.phases=alternate", "federation.tau=1"],
            "federation.tau of at least 2 with method.phases=alternate, got 1",
        ),
        (
            ["client.prox_mu=0.1", "federation.tau=1"],
            "federation.tau of at least 2 with client.prox_mu above 0, got 1: the first step",
        ),
        (
            [
                "method=shared_rep",
                "method.phases=alternate",
                "client.prox_mu=0.1",
                "federation.tau=2",
            ],
            "federation.tau of at least 3 with client.prox_mu above 0 and method.phases=alternate",
        ),
        (
            [
                "method=shared_rep",
                "method.phases=alternate",
                "client.prox_mu=0.1",
                "federation.tau=3",
                "method.share_until=0",
            ],
            "federation.tau of at least 4 with client.prox_mu above 0 and method.phases=alternate",
        ),
        (
            [SECURE, "client.compression=bf16"],
            "client.compression=none with federation.secure_aggregation=true, got bf16: a masked",
        ),
        (
            ["client.opt_state=average", PRIVATE[1]],
            "client.opt_state=reset or keep with privacy.rounds.epsilon, got average: moments",
        ),
        (
            [*PRIVATE, "method=local"],
            "a method with rounds with privacy.rounds.epsilon, got local: choose spire",
        ),
        (
            [*PRIVATE, "privacy.adapt.epsilon=4"],
            "privacy.adapt.epsilon=null with privacy.rounds.epsilon, got 4.0: epsilon is about one",
        ),
        (
            [*PRIVATE, "client.compression=int8"],
            "client.compression=none with privacy.rounds.epsilon, got int8: changes are clipped",
        ),
        (
            [*PRIVATE, "adapt.init=mean"],
            "adapt.init=zero or random with privacy.rounds.epsilon, got mean: the mean embedding",
        ),
        (
            [*PRIVATE, "method=shared_rep", "adapt.local_init=mean"],
            "adapt.local_init=shared with privacy.rounds.epsilon, got mean: the mean of local",
        ),
        (
            [*PRIVATE, SECURE],
            "a chance of at most 1e-06 of fewer than 3 clients in a .*, got 0.1: the server",
        ),
        (
            [*PRIVATE, "privacy.rounds.noise_cohort=1"],
            "privacy.rounds.noise_cohort in 4..6, got 1: it stands for federation.cohort_size",
        ),
        (
            ["privacy.rounds.epsilon=0"],
            r"privacy.rounds.epsilon in \(0, 100\], got 0.0: 8 is usual",
        ),
        (["privacy.rounds.clip_quantile=1"], r"privacy.rounds.clip_quantile in \(0, 1\), got 1.0"),
        ([SECURE, "federation.cohort_size=2"], "cohort_size of at least 3 .*, got 2: each of two"),
        (
            ["privacy.adapt.epsilon=4", "method=fedavg"],
            "train one part with privacy.adapt.epsilon, got fedavg, which trains 0: choose spire",
        ),
        (
            ["privacy.adapt.epsilon=4", "adapt.early_stopping=true"],
            "adapt.early_stopping=false with privacy.adapt.epsilon, got true: an epoch",
        ),
        (
            ["privacy.adapt.epsilon=4", "adapt.guidance=[1,2]"],
            r"adapt.guidance=null with privacy.adapt.epsilon, got \[1.0, 2.0\]: a scale",
        ),
        (
            ["method=local", "adapt.guidance=[1,2]"],
            "a method with pre-training with adapt.guidance, got local: guidance leads",
        ),
        (
            ["eval.extractor=none", "adapt.guidance=[1,2]"],
            "an eval.extractor with adapt.guidance, got none: drawings are compared",
        ),
        (["adapt.guidance=[2]"], r"2 to 16 different scales as adapt.guidance, got \[2.0\]: a"),
        (["adapt.guidance=[1,1]"], r"2 to 16 different scales .*, got \[1.0, 1.0\]: a new"),
        (["adapt.guidance=[1,-2]"], "adapt.guidance of at least 0, got -2"),
        (
            [
                "privacy.adapt.epsilon=4",
                "privacy.adapt.mechanism=one_release",
                "method=shared_rep",
            ],
            "an embedding with privacy.adapt.mechanism=one_release, got shared_rep: choose",
        ),
        (
            ["privacy.adapt.epsilon=4", "method=local"],
            "privacy.adapt.clip_norm with method=local, got null: without pre-training",
        ),
        (
            ["client.emb_first_steps=0", "method.episodes=0.5"],
            "client.emb_first_steps of at least 1 with method.episodes above 0, got 0: an episode",
        ),
        (
            ["adapt.init=encoder"],
            "model.set_encoder=true and method.episodes above 0 with adapt.init=encoder, got false",
        ),
        (
            [*ENCODER, "adapt.init=encoder", "privacy.adapt.epsilon=4"],
            "adapt.init=zero, mean or random with privacy.adapt.epsilon, got encoder: what an",
        ),
        (
            [*ENCODER, "model.backbone=/nowhere"],
            "model.set_encoder=false with model.backbone, got true",
        ),
        (["adapt.draws=0"], "adapt.draws of at least 1, got 0: null takes as many as fill a batch"),
        (["adapt.average=1.5"], "adapt.average in .* got 1.5: 0 turns it off"),
        (["client.emb_prior=0"], r"client.emb_prior in \(0, 1000\], got 0.0: null turns it off"),
        (["privacy.adapt.epsilon=0"], r"privacy.adapt.epsilon in \(0, 100\], got 0.0: 4 is usual"),
        (["privacy.adapt.delta=1"], r"privacy.adapt.delta in \(0, 1\), got 1.0: null takes"),
        (["privacy.adapt.clip_norm=0"], "clip_norm of at least 1e-30, got 0.0: null chooses it"),
        (["privacy.adapt.clip_norm=1e-31"], "privacy.adapt.clip_norm of at least 1e-30, got 1e-31"),
        (["privacy.rounds.clip_norm=1e-302"], "privacy.rounds.clip_norm of at least 1e-30, got"),
        (["privacy.adapt.steps=0"], "privacy.adapt.steps of at least 1, got 0"),
        (["privacy.noise_key=''"], "privacy.noise_key as a text, got an empty one: null draws"),
    ],
)
def test_settings_that_could_not_train_or_draw_are_refused(
    overrides: list[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config("smoke", overrides)
    load_config("smoke", overrides[:-1])  # each is fine without the last


@pytest.mark.parametrize("word", ["seed=1:30", "federation.tau=1:30", "client.lr=-1:30.5"])
def test_numbers_of_base_60_are_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=r"got .*1:30.*, which YAML 1\.1 takes for a number of"):
        load_config("smoke", [word])
    assert load_config("smoke", ["tracking.run_name='1:30'"]).tracking.run_name == "1:30"


@pytest.mark.parametrize("word", ["seed=010", "seed=-017", "client.batch_size=0_7", "seed=00"])
def test_numbers_of_base_8_are_refused(word: str) -> None:
    with pytest.raises(ConfigError, match=r"got .*0.*, which YAML 1\.1 takes for a .* base 8"):
        load_config("smoke", [word])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("-0", 0),
        ("0.1", 0.1),
        ("0x1f", 31),
        ("01.5", 1.5),
        ("'010'", "010"),
        ("089", "089"),
    ],
)
def test_other_values_that_begin_with_zero_stay(text: str, value: object) -> None:
    assert split_override(f"any.key={text}")[1] == value


@pytest.mark.parametrize("text", ODD)
def test_any_text_is_written_on_a_line_and_read_again(text: str) -> None:
    written = write_value([text, {text: 1e-07}])
    assert written.isprintable()
    assert read_plain(written, "a text") == [text, {text: 1e-07}]


def test_a_vocabulary_of_the_largest_size_is_read() -> None:
    words = [f"слово{i:05d}" for i in range(10_000)]
    overrides = ["model.text=words", f"model.words={write_value(words)}"]
    assert len(load_config("smoke", overrides).model.words) == 10_000


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("model.d_emb=[16,64]", r"got \[16, 64\]: choose one value, or vary axes.model.d_emb"),
        ("model.d_emb=many", "got 'many': change its value"),
        ("seed=[1,2]", r"got \[1, 2\]: choose one value$"),
        ("privacy.adapt.epsilon=.inf", "got inf: 4 is usual, null turns it off"),
    ],
)
def test_a_wrong_type_is_not_answered_by_the_advice_for_a_wrong_number(
    word: str, advice: str
) -> None:
    with pytest.raises(ConfigError, match=advice):
        load_config("smoke", [word])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E5", 1e5),
        ("-1.5e3", -1500.0),
        ("1_000.5", 1000.5),
        (".5", 0.5),
        ("1", 1),
        ("1e", "1e"),
        ("2020-01-01", "2020-01-01"),
        ("a=b", "a=b"),
        ("'1e3'", "1e3"),
        ("null", None),
        (" ~ ", None),
        ("photos #2", "photos #2"),
        ("#2", "#2"),
        ("'a' #b", "'a' #b"),
        ("'a #b'", "a #b"),
        ("a#b", "a#b"),
        ('["#1", x]', ["#1", "x"]),
        ("on", True),
        ("[1, a, 2.5e1]", [1, "a", 25.0]),
        ("{a: 1, b: {c: null}}", {"a": 1, "b": {"c": None}}),
    ],
)
def test_a_value_is_read_as_yaml_with_floats_that_need_no_dot(text: str, value: object) -> None:
    key, found = split_override(f"any.key={text}")
    assert key == "any.key"
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["{a: 1, a: 2}", "{1: 2}", "0x_", "=", "<<", "${seed}", "???"])
def test_a_value_that_is_not_plain_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^expected .* in any\.key, got .*: "):
        split_override(f"any.key={text}")


@pytest.mark.parametrize("key", ["client.lr", "tracking.experiment", "method", "wibble", "axes.a"])
def test_null_is_advised_only_where_it_is_allowed(key: str) -> None:
    with pytest.raises(ConfigError, match=f"after {key}=, got nothing: give one$"):
        split_override(f"{key}=")


@pytest.mark.parametrize("text", ["", "  ", "---"])
def test_no_value_is_not_null_unless_it_is_typed(text: str) -> None:
    with pytest.raises(ConfigError, match=r"after privacy\.adapt\.epsilon=, got .*=null for none"):
        load_config("smoke", [f"privacy.adapt.epsilon={text}"])


@pytest.mark.parametrize("text", ["a #${seed}", "a #" + "x" * 5000])
def test_what_yaml_takes_for_a_comment_is_checked_too(text: str) -> None:
    with pytest.raises(ConfigError, match="expected plain values"):
        split_override(f"data.path={text}")


def test_overrides_of_one_group_add_up_and_the_last_of_a_key_holds() -> None:
    words = ["client={lr: 0.5, emb_lr: 1}", "client.lr=0.25", "client.betas=[0.5,0.6]"]
    client = load_config("smoke", words).client
    assert (client.lr, client.emb_lr, client.betas) == (0.25, 1.0, (0.5, 0.6))
    with pytest.raises(ConfigError, match="expected settings under client, got 3"):
        load_config("smoke", ["client.lr=1", "client=3"])
