"""What a sweep's file and words come to: its trials, each once, in order; or one sentence."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.load import flattened, load_config
from pipeline.config.meaning import fingerprint
from spire_core.config.privacy import label_of
from spire_core.errors import ConfigError
from sweeps.design.config import SweepConfig, labelled, load_study, sweep_names
from sweeps.design.points import probes, trial_of, trials
from sweeps.sweep import base_config, told_equal


def sweep_of(**values: Any) -> SweepConfig:
    return SweepConfig(**({"name": "test", "preset": "smoke"} | values))


def load_sweep(file: str, words: list[str] | tuple[str, ...] = ()) -> SweepConfig:
    return load_study(file, words)[0]


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


def test_without_axes_a_sweep_is_its_seeds() -> None:
    assert labels(sweep_of(seeds=(5, 1))) == ["spire seed=5", "spire seed=1"]


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


def test_passes_that_are_as_many_steps_as_tau_are_one_trial(mnist_root: Path) -> None:
    """60 images, of which a client trains on 48: a pass is 3 steps of 16."""
    settings = {"partition": {"name": "iid", "client_size": 60}, "data.root": str(mnist_root)}
    lengths = [{"federation.tau": 3}, {"federation.tau": 4}]
    lengths += [{"federation.local_epochs": n} for n in (1, 2)]
    sweep = sweep_of(settings=settings, axes={"period": lengths, "method": ["spire", "fedavg_ft"]})
    assert labels(sweep) == [
        f"{method} {length} seed=0"
        for length in ("tau=3", "tau=4", "local_epochs=2")
        for method in ("spire", "fedavg_ft")
    ]
    assert told_equal(sweep, len(trials(sweep))).startswith("2 of 8 trials")
    none = replace(sweep, settings=settings | {"data.root": "/nowhere"})
    assert len(trials(none)) == 8  # what is not known is not merged


def test_the_two_lengths_of_a_round_are_one_axis() -> None:
    with pytest.raises(
        ConfigError, match=r"make them one axis, such as period: \[\{federation\.tau"
    ):
        sweep_of(axes={"federation.tau": [1, 3], "federation.local_epochs": [1, 2]})
    pair = [{"federation.tau": 3, "federation.local_epochs": None}]
    assert sweep_of(axes={"period": pair, "model.d_emb": [4, 8]})


def test_a_path_is_in_an_id_as_it_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the same command goes on elsewhere."""

    def identity(path: str) -> tuple[str, str]:
        settings = {"data": {"name": "folder", "path": path, "image_size": 16}}
        sweep = sweep_of(settings=settings)
        return sweep.key, trials(sweep)[0].trial_id

    here = identity("photos")
    monkeypatch.chdir(tmp_path)
    assert identity("photos") == here
    assert not {*identity("drawings")} & {*here}


def test_settings_that_go_together_are_one_axis() -> None:
    period = [{"federation.tau": 3}, {"federation.tau": 12, "client.batch_size": 8}]
    found = trials(sweep_of(settings={"client.batch_size": 4}, axes={"period": period}))
    assert [(t.config.federation.tau, t.config.client.batch_size) for t in found] == [
        (3, 4),
        (12, 8),
    ]
    assert found[1].point == {"federation.tau": 12, "client.batch_size": 8}


def test_settings_may_be_nested_or_flat() -> None:
    flat = sweep_of(settings={"data.name": "fashion_mnist", "federation.num_rounds": 3})
    nested = sweep_of(settings={"data": {"name": "fashion_mnist"}, "federation": {"num_rounds": 3}})
    [one], [other] = trials(flat), trials(nested)
    assert one.trial_id == other.trial_id
    assert one.config.data.name == "fashion_mnist"


def test_a_trial_is_the_run_of_its_overrides() -> None:
    axes = {
        "client.lr": [1e-5],
        "method.local_layers": [["conv_out"]],
        "federation.local_epochs": [2],
    }
    [trial] = trials(sweep_of(axes=axes, settings={"method": "shared_rep"}, seeds=(7,)))
    config = load_config(trial.preset, trial.overrides)
    assert config == trial.config
    assert (config.client.lr, config.method.local_layers, config.seed) == (1e-5, ("conv_out",), 7)
    assert (config.federation.tau, config.federation.local_epochs) == (None, 2)
    assert trial.trial_id == fingerprint(config)[:12]


def test_where_a_trial_runs_and_is_tracked_is_no_part_of_its_id() -> None:
    def ids(**settings: Any) -> list[str]:
        return [t.trial_id for t in trials(sweep_of(settings=settings))]

    assert ids() == ids(**{"resources.pool": "local", "tracking.root": "/x", "data.root": "/y"})
    assert ids() != ids(**{"adapt.epochs": 1})


def test_trials_that_wait_for_anothers_pretraining_come_last() -> None:
    axes = {"method": ["fedavg_ft", "fedavg", "spire", "local"], "adapt.epochs": [1, 2]}
    found = trials(sweep_of(axes=axes))
    assert [(t.label, t.shares_pretraining) for t in found] == [
        ("fedavg_ft epochs=1 seed=0", True),
        ("spire epochs=1 seed=0", True),
        ("local epochs=1 seed=0", False),  # has no pre-training
        ("local epochs=2 seed=0", False),
        ("fedavg_ft epochs=2 seed=0", True),
        ("fedavg seed=0", True),  # adapts nothing: more epochs are the same
        ("spire epochs=2 seed=0", True),
    ]


def test_the_trials_of_a_task_stand_together() -> None:
    worlds = {"partition.alpha": [0.1, 1.0], "adapt.lr": [0.1, 0.2]}
    settings = {"method": "spire", "partition": "dirichlet"}
    sweep = sweep_of(axes=worlds, settings=settings, seeds=(0, 1))
    assert labels(sweep) == [
        f"spire alpha={alpha} lr={lr} seed={seed}"
        for alpha in ("0.1", "1")
        for lr in (0.1, 0.2)  # of the same pre-training
        for seed in (0, 1)
    ]


def test_more_values_or_seeds_make_no_other_sweep() -> None:
    small = sweep_of(axes={"method": ["spire"]})
    large = sweep_of(axes={"method": ["fedavg_ft", "spire"]}, seeds=(0, 1), max_failures=0)
    assert small.key == large.key
    assert small.key != sweep_of(settings={"adapt.epochs": 1}).key
    assert {t.trial_id for t in trials(small)} < {t.trial_id for t in trials(large)}


def test_what_a_sweep_is_about_makes_no_other_sweep() -> None:
    primary = ({"method": "fedavg_ft", "where": {"adapt.num_images": 16}},)
    assert sweep_of(primary=primary).key == sweep_of().key
    with pytest.raises(ConfigError, match=r"primary\.method out of spire, .*, got 'ditto'"):
        sweep_of(primary=({"method": "ditto"},))


def test_other_places_to_run_in_make_no_other_sweep() -> None:
    here = sweep_of(settings={"adapt": {"epochs": 1}})
    elsewhere = sweep_of(settings={"adapt.epochs": 1, "resources.num_actors": 8})
    assert here.key == elsewhere.key
    assert here.key != sweep_of(settings={"adapt.epochs": 1, "tracking.enabled": False}).key
    assert [t.trial_id for t in trials(here)] == [t.trial_id for t in trials(elsewhere)]


# --- drawn points ---------------------------------------------------------------------------------


def test_a_draw_is_a_trial_with_few_digits_that_shares_its_pretraining() -> None:
    axes = {
        "client.lr": {"min": 1e-4, "max": 1e-1, "log": True},
        "adapt.epochs": {"min": 1, "max": 9, "integer": True},
        "method": ["spire", "fedavg_ft"],
    }
    sweep = sweep_of(axes=axes, search="random", num_trials=2)
    trial = trial_of(sweep, {"client.lr": 0.0123456, "adapt.epochs": 3, "method": 1})
    assert trial.point == {"client.lr": 0.01235, "adapt.epochs": 3, "method": "fedavg_ft"}
    assert trial.shares_pretraining
    ends = [(t.config.client.lr, t.config.adapt.epochs) for t in probes(sweep)]
    assert {1e-4, 1e-1} == {lr for lr, _ in ends}
    assert {1, 9} == {epochs for _, epochs in ends}
    narrow = sweep_of(
        axes={"client.lr": {"min": 0.12345, "max": 0.12346}}, search="random", num_trials=2
    )
    assert trial_of(narrow, {"client.lr": 0.123456}).config.client.lr == 0.12346


def test_other_axes_and_the_other_mode_make_another_search_of_optuna() -> None:
    one = sweep_of(axes={"method": ["spire", "fedavg"]}, search="optuna", num_trials=2)
    other = sweep_of(axes={"method": ["fedavg", "spire"]}, search="optuna", num_trials=2)
    assert one.key != other.key
    assert one.key == sweep_of(axes=one.axes, search="optuna", num_trials=9).key
    assert one.key != sweep_of(axes=one.axes, search="optuna", num_trials=2, mode="max").key


def test_the_other_mode_makes_another_sweep_where_it_stops_other_trials() -> None:
    def keys(**values: Any) -> list[str]:
        return [sweep_of(mode=m, metric="pretrain/kid/mean", **values).key for m in ("min", "max")]

    lowest, highest = keys(scheduler="asha")
    assert lowest != highest
    assert len(set(keys())) == 1  # it only says which trial is the best


def test_settings_may_name_another_experiment_nested_or_flat() -> None:
    for settings in ({"tracking.experiment": "mine"}, {"tracking": {"experiment": "mine"}}):
        assert base_config(sweep_of(settings=settings)).tracking.experiment == "mine"
    assert base_config(sweep_of()).tracking.experiment == sweep_of().name


# --- files and words ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sweep_names())
def test_our_own_sweeps_are_valid(name: str) -> None:
    """On one of its seeds: nothing but a run's seed depends on them."""
    sweep = load_sweep(name)
    assert sweep.name == name
    one = replace(sweep, seeds=sweep.seeds[:1])
    assert probes(one) if one.is_drawn else trials(one)


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("# Does it\n#  help?\npreset: smoke\n# no\n", "Does it help?"),
        ("preset: smoke\n# no\n", ""),
        ("# no\nquestion: Which?\npreset: smoke\n", "Which?"),
    ],
)
def test_a_sweeps_question_is_the_comment_at_its_head(
    text: str, question: str, tmp_path: Path
) -> None:
    path = tmp_path / "asked.yaml"
    path.write_text(text)
    sweep = load_sweep(str(path))
    assert sweep.question == question
    assert sweep.key == replace(sweep, question="").key  # other words make no other sweep


def test_a_group_without_anything_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("preset: smoke\nsettings:\naxes:\n")
    sweep = load_sweep(str(path))
    assert (sweep.settings, sweep.axes) == ({}, {})
    assert load_sweep(str(path), ["client.lr=0.1"]).settings == {"client.lr": 0.1}


@pytest.mark.parametrize("text", ["exp 😀", "/tmp/𠮷", "@id", "*text", "a: b", "1e5"])
def test_a_trial_has_any_text_among_its_settings(text: str) -> None:
    [trial] = trials(sweep_of(settings={"tracking.run_name": text}))
    assert trial.config.tracking.run_name == text


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
            {"partition.name": "pathological", "partition.classes_per_client": 3},
        ),
        (
            "{method: {name: spire, phases: alternate}}",
            "method=shared_rep",
            {"method.name": "shared_rep", "method.phases": "alternate"},
        ),
        (
            "{client.lr: 0.1, client.momentum: 0.5}",
            "client={lr: 0.7}",
            {"client.lr": 0.7, "client.momentum": 0.5},
        ),
        ("{client: {lr: 0.1}}", "settings.client.lr=0.7", {"client.lr": 0.7}),
        ("{method: spire}", "method.name=local", {"method.name": "local"}),
        ("{client: {lr: 0.1}}", "settings={client: {emb_lr: 1}}", {"client.emb_lr": 1}),
    ],
)
def test_a_word_replaces_one_setting_of_a_group_and_no_other(
    settings: str, word: str, laid_over: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"preset: smoke\nsettings: {settings}\n")
    assert flattened(load_sweep(str(path), [word]).settings) == laid_over


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"search": "optuna", "num_trials": 2, "seeds": (0, 1)}, "one seed with search=optuna"),
        ({"search": "random"}, "num_trials with random and optuna"),
        ({"num_trials": 2}, "num_trials with random and optuna"),
        ({"share_pretraining": "always"}, "share_pretraining out of sweep, root"),
        ({"metric": "kid"}, "a metric that every trial reports"),
        ({"scheduler": "asha"}, "a metric that every trial reports while rounds run"),
        ({"axes": {"a": [{"client.lr": 1}], "client.lr": [1]}}, "one axis for client.lr, got two"),
        ({"axes": {"a": [{"client.lr": 1}, {"seed": 5}]}}, "set seeds=[0, 1]"),
        ({"axes": {"model": {"d_emb": [16, 64]}}}, "such as model.d_emb: [1, 2]"),
        ({"axes": {"client.lr": []}}, "axes.client.lr as a list of values"),
        ({"axes": {"client.lr": {"min": 1, "max": 2}}}, "or add search: random"),
        ({"seeds": (1, 1)}, "seeds as different numbers"),
        ({"seeds": tuple(range(10_001))}, "at most 10000 trials"),
    ],
)
def test_what_does_not_go_together_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        sweep_of(**values)
    assert told in str(error.value)


@pytest.mark.parametrize(
    "axis",
    [
        {"min": 1},
        {"min": 2, "max": 1},
        {"min": 0, "max": 1, "log": True},
        {"min": 0, "max": 1, "step": 0.1},
        {"min": 0.5, "max": 3.5, "integer": True},
        {"min": "a", "max": "b"},
    ],
)
def test_a_range_has_two_ends_in_order(axis: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"expected axes\.client\.lr"):
        sweep_of(axes={"client.lr": axis}, search="random", num_trials=2)
