"""What a sweep's file and words come to: its trials, each once, in order; or one sentence."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.load import load_config
from pipeline.config.meaning import fingerprint
from spire_core.config.privacy import label_of
from spire_core.errors import ConfigError
from sweeps.design.config import SweepConfig, labelled, load_sweep, settings_of, sweep_names
from sweeps.design.points import probes, trial_of, trials
from sweeps.sweep import told_equal


def sweep_of(**values: Any) -> SweepConfig:
    return SweepConfig(**({"name": "test", "preset": "smoke"} | values))


def labels(sweep: SweepConfig) -> list[str]:
    return [trial.label for trial in trials(sweep)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "preset: smoke\nsettings: {adapt.epochs: 2}\n"
        "axes: {method: [spire, fedavg_ft], model.d_emb: [4, 8]}\n"
    )
    return path


# --- expansion ------------------------------------------------------------------------------------


def test_a_grid_has_every_combination_with_every_seed() -> None:
    axes = {"federation.tau": [1, 2], "client.lr": [0.1, 0.01]}
    found = trials(sweep_of(axes=axes, seeds=(3, 4)))
    assert [
        (t.config.federation.tau, t.config.client.lr, t.config.seed, t.point) for t in found
    ] == [
        (tau, lr, seed, {"federation.tau": tau, "client.lr": lr})
        for tau in (1, 2)
        for lr in (0.1, 0.01)
        for seed in (3, 4)
    ]
    assert found[0].label == "spire tau=1 lr=0.1 seed=3"


def test_a_noise_key_is_shown_as_its_label_wherever_it_stands() -> None:
    secret, label = "a phrase", label_of("a phrase")
    private = {"privacy.rounds.epsilon": 8, "client.opt_state": "reset", "client.engine": "loop"}
    pair = [{"privacy.noise_key": secret, "federation.tau": 1}, {"privacy": {"noise_key": secret}}]
    primary = ({"where": {"privacy.noise_key": secret}, "against": "local", "method": "spire"},)
    for values in (
        {"settings": private | {"privacy": {"noise_key": secret}}},
        {"settings": private, "axes": {"privacy.noise_key": [secret, None]}},
        {"settings": private, "axes": {"pair": pair}, "primary": primary},
    ):
        sweep = sweep_of(**values)
        found = trials(sweep)[0]
        assert found.config.privacy.noise_key == secret
        shown = labelled(asdict(sweep))
        assert secret not in repr((shown, found.overrides, found.point, found.label))
        assert label in repr(shown)
        assert label in "".join(found.overrides)


def test_combinations_that_mean_the_same_are_one_trial() -> None:
    axes = {"method": ["spire", "fedavg_ft", "shared_rep"], "model.d_emb": [4, 8, 16]}
    sweep = sweep_of(axes=axes, seeds=(0, 1))
    assert labels(replace(sweep, seeds=(0,))) == [
        "spire d_emb=4 seed=0",
        "spire d_emb=8 seed=0",
        "spire d_emb=16 seed=0",
        "fedavg_ft seed=0",  # has no embedding
        "shared_rep seed=0",
    ]
    told = told_equal(sweep, len(trials(sweep)))
    assert told == "8 of 18 trials are equal to others: 10 run"
    assert told_equal(sweep_of(seeds=(0, 1)), 2) == ""
    default = load_config("smoke", ["method=fedavg_ft"]).method.record.adapt_lr
    twice = sweep_of(settings={"method": "fedavg_ft"}, axes={"adapt.lr": [None, default, 0.1]})
    assert len(trials(twice)) == 2


def test_settings_that_go_together_are_one_axis() -> None:
    period = [{"federation.tau": 3}, {"federation.tau": 12, "client.batch_size": 8}]
    found = trials(sweep_of(settings={"client.batch_size": 4}, axes={"period": period}))
    assert [(t.config.federation.tau, t.config.client.batch_size) for t in found] == [
        (3, 4),
        (12, 8),
    ]
    assert found[1].point == {"federation.tau": 12, "client.batch_size": 8}


def test_a_trial_is_the_run_of_its_overrides() -> None:
    axes = {
        "client.lr": [1e-5],
        "method.local_layers": [["conv_out"]],
        "federation.local_epochs": [2],
    }
    [trial] = trials(sweep_of(axes=axes, settings={"method": "shared_rep"}, seeds=(7,)))
    config = load_config("smoke", trial.overrides)
    assert config == trial.config
    assert (config.client.lr, config.method.local_layers, config.seed) == (1e-5, ("conv_out",), 7)
    assert (config.federation.tau, config.federation.local_epochs) == (None, 2)
    assert trial.trial_id == fingerprint(config)[:12]


def test_trials_that_wait_for_anothers_pretraining_come_last() -> None:
    axes = {"method": ["fedavg_ft", "fedavg", "spire", "local"], "adapt.epochs": [1, 2]}
    assert labels(sweep_of(axes=axes)) == [
        "fedavg_ft epochs=1 seed=0",
        "spire epochs=1 seed=0",
        "local epochs=1 seed=0",  # has no pre-training
        "local epochs=2 seed=0",
        "fedavg_ft epochs=2 seed=0",
        "fedavg seed=0",  # adapts nothing: more epochs are the same
        "spire epochs=2 seed=0",
    ]


def test_what_makes_another_sweep_and_what_continues_it() -> None:
    one = sweep_of(settings={"adapt": {"epochs": 1}}, axes={"method": ["spire"]})
    places = {"adapt.epochs": 1, "resources.num_actors": 8, "tracking.root": "/x"}
    same = sweep_of(settings=places, axes={"method": ["fedavg_ft", "spire"]}, seeds=(0, 1))
    assert same.key == one.key
    assert {t.trial_id for t in trials(one)} < {t.trial_id for t in trials(same)}
    assert replace(one, primary=({"method": "local"},), max_failures=0, mode="max").key == one.key
    for other in ({"adapt.epochs": 2}, {"adapt.epochs": 1, "tracking.enabled": False}):
        assert replace(one, settings=other).key != one.key
    search = replace(one, search="optuna", num_trials=2)
    assert replace(search, num_trials=9).key == search.key
    assert replace(search, mode="max").key != search.key
    assert replace(search, axes={"method": ["fedavg_ft", "spire"]}).key != search.key


# --- drawn points ---------------------------------------------------------------------------------


def test_a_draw_is_a_trial_with_few_digits() -> None:
    axes = {
        "client.lr": {"min": 1e-4, "max": 1e-1, "log": True},
        "adapt.epochs": {"min": 1, "max": 9, "integer": True},
        "method": ["spire", "fedavg_ft"],
    }
    sweep = sweep_of(axes=axes, search="random", num_trials=2)
    trial = trial_of(sweep, {"client.lr": 0.0123456, "adapt.epochs": 3, "method": 1})
    assert trial.point == {"client.lr": 0.01235, "adapt.epochs": 3, "method": "fedavg_ft"}
    ends = [(t.config.client.lr, t.config.adapt.epochs) for t in probes(sweep)]
    assert {1e-4, 1e-1} == {lr for lr, _ in ends}
    assert {1, 9} == {epochs for _, epochs in ends}


# --- files and words ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sweep_names())
def test_our_own_sweeps_are_valid(name: str) -> None:
    """On one of its seeds: nothing but a run's seed depends on them."""
    sweep = load_sweep(name)
    assert sweep.name == name
    one = replace(sweep, seeds=sweep.seeds[:1])
    assert probes(one) if one.is_drawn else trials(one)


def test_a_sweep_is_read_again_from_what_its_run_records(file: Path, tmp_path: Path) -> None:
    sweep = load_sweep(str(file), ["seeds=[0,1]"])
    recorded = tmp_path / "sweep.yaml"
    recorded.write_text(yaml.safe_dump(asdict(sweep)))
    assert load_sweep(str(recorded)) == sweep


def test_words_set_the_sweep_its_axes_and_all_its_trials(file: Path) -> None:
    words = ["seeds=[1,2]", "adapt.epochs=3", "axes.method=[spire]", "axes.client.lr=[0.1,0.2]"]
    sweep = load_sweep(str(file), [*words, "federation.num_rounds=5", "concurrency=1"])
    assert (sweep.name, sweep.seeds, sweep.concurrency) == ("mine", (1, 2), 1)
    assert sweep.axes == {"method": ["spire"], "model.d_emb": [4, 8], "client.lr": [0.1, 0.2]}
    assert {t.config.adapt.epochs for t in trials(sweep)} == {3}
    assert {t.config.federation.num_rounds for t in trials(sweep)} == {5}
    assert len(trials(sweep)) == 8
    assert load_sweep(str(file), ["name=other"]).name == "other"
    assert load_sweep(str(file), ["axes={}"]).axes == {}


@pytest.mark.parametrize(
    ("settings", "word", "laid_over"),
    [
        (
            "{partition: {name: iid, classes_per_client: 3}}",
            "partition=pathological",
            {"partition": "pathological", "partition.classes_per_client": 3},
        ),
        (
            "{client.lr: 0.1, client.momentum: 0.5}",
            "client={lr: 0.7}",
            {"client.lr": 0.7, "client.momentum": 0.5},
        ),
        ("{client: {lr: 0.1}}", "settings.client.lr=0.7", {"client.lr": 0.7}),
        ("{client: {lr: 0.1}}", "settings={client: {emb_lr: 1}}", {"client.emb_lr": 1}),
    ],
)
def test_a_word_replaces_one_setting_of_a_group_and_no_other(
    settings: str, word: str, laid_over: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"preset: smoke\nsettings: {settings}\n")
    assert settings_of(load_sweep(str(path), [word]).settings) == laid_over


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"search": "optuna", "num_trials": 2, "seeds": (0, 1)}, "one seed with search=optuna"),
        ({"metric": "kid"}, "a metric that every trial reports"),
        ({"scheduler": "asha"}, "a metric that every trial reports while rounds run"),
        ({"axes": {"a": [{"client.lr": 1}], "client.lr": [1]}}, "one axis for client.lr, got two"),
        ({"settings": {"client.lr": 1}, "axes": {"a": [{"client.lr": 2}]}}, "set axes.KEY=[...]"),
        ({"settings": {"seed": 5}}, "set seeds=[0, 1]"),
        ({"axes": {"client.lr": {"min": 1, "max": 2}}}, "or with search: random as a range"),
        ({"primary": ({"method": "ditto"},)}, "primary.method out of spire"),
    ],
)
def test_what_does_not_go_together_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        sweep_of(**values)
    assert told in str(error.value)
