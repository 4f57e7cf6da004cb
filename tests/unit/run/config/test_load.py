"""How settings are read: layers, types and names."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import (
    config_from_dict,
    load_config,
    preset_names,
    read_yaml,
    split_word,
    write_value,
    write_yaml,
)
from pipeline.config.schema import Config
from spire_core.errors import ConfigError


def test_later_layers_win_and_leave_the_rest_alone() -> None:
    preset = load_config("smoke")
    config = load_config("smoke", ["client.lr=1e-3", "client.lr=0.5", "model.multipliers=[1,2,4]"])
    assert config.client.lr == 0.5
    assert config.model.multipliers == (1, 2, 4)
    assert config.client.emb_dropout == preset.client.emb_dropout == 0.1
    assert config.federation == preset.federation
    assert load_config(None) == Config()
    dropping = load_config("smoke", ["client.engine=grouped", "model.dropout=0.1"])
    assert dropping.resolved_client.engine == "loop"  # groups have no dropout


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_valid_and_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    assert config_from_dict(config.as_dict()) == config
    path = tmp_path / "written.yaml"
    path.write_text(write_yaml(config.as_dict()))
    assert config_from_dict(read_yaml(path)) == config


@pytest.mark.parametrize("group", ["data", "partition", "method"])
def test_a_bare_group_sets_its_name(group: str) -> None:
    name = {"data": "cifar10", "partition": "iid", "method": "fedavg"}[group]
    short, whole = (
        load_config("smoke", [word]) for word in (f"{group}={name}", f"{group}.name={name}")
    )
    assert short == whole != load_config("smoke")


def test_a_named_length_of_a_round_withdraws_the_other_of_layers_below() -> None:
    config = load_config("smoke", ["federation.local_epochs=2"])
    assert (config.federation.tau, config.federation.local_epochs) == (None, 2)
    assert load_config("mnist", ["federation.tau=4"]).federation.local_epochs is None
    for words in (["federation.tau=1", "federation.local_epochs=1"], ["federation.tau=null"]):
        with pytest.raises(ConfigError, match=r"one of federation\.tau and"):
            load_config("smoke", words)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("clint.lr=1", r"got clint: .*Did you mean: 'client'"),
        ("client.emb_ls=1", r"got client\.emb_ls: .*Did you mean: 'emb_lr'"),
        ("client.lr=abc", r"got client\.lr: .*'abc'"),
        ("seed=null", "got seed: "),
        ("method=spyre", r"method\.name out of .*, got 'spyre': did you mean spire\?"),
        ("client.lr=[", r"expected client\.lr in YAML"),
        ("privacy.adapt.epsilon=", r"a value after privacy\.adapt\.epsilon=.*null for no privacy"),
        ("privacy.rounds.epsilon= ", r"a value after privacy\.rounds\.epsilon="),
        ("client.lr", "expected settings as key=value, got 'client.lr'"),
    ],
)
def test_a_wrong_word_is_one_line_with_its_key(word: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        load_config("smoke", ["seed=1", word])
    assert "\n" not in str(caught.value)


def test_an_unknown_preset_and_a_missing_file_name_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mnist-cpu.*got 'mnst-cpu': did you mean mnist-cpu\?"):
        load_config("mnst-cpu")
    with pytest.raises(ConfigError, match=r"expected a sweep, got .*nope\.yaml \(No such file"):
        read_yaml(tmp_path / "nope.yaml", "a sweep")


def test_a_stored_configuration_reads_no_environment() -> None:
    stored = load_config("smoke").as_dict() | {"tracking": {"run_name": "${oc.env:HOME}"}}
    with pytest.raises(ConfigError, match="a stored configuration that is resolved"):
        config_from_dict(stored)


@pytest.mark.parametrize("value", [1e-9, True, None, "7", "[1", "ü😀", [1, "a"]])
def test_a_value_is_written_on_a_line_and_read_again(value: Any) -> None:
    assert split_word(f"a.b={write_value(value)}") == ("a.b", value)
