"""What a sweep's file and words come to: its trials, each once, in order; or one sentence."""

import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.data import DATASETS
from pipeline.config.load import flattened, load_config
from pipeline.config.meaning import fingerprint
from pipeline.federation.setup import extractor_of
from pipeline.runs.record import located
from spire_core.config.privacy import label_of
from spire_core.errors import ConfigError
from spire_core.evaluation.extractors import is_classifier_of
from sweeps.design.config import SweepConfig
from sweeps.design.load import load_sweep, sweep_names
from sweeps.design.metric import _has_own_classifier
from sweeps.design.points import _draw, _random, point_of, probes, trials
from sweeps.design.settings import BY_PATH
from sweeps.execution.source import SearchHistory
from sweeps.execution.tune_search import _domain, optuna_search
from sweeps.sweep import base_config


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
    """The trials have the key itself, and the sweep stays the same one."""
    secret, label = "a phrase", label_of("a phrase")
    private = {"privacy.rounds.epsilon": 8, "client.opt_state": "reset", "client.engine": "loop"}
    pair = [{"privacy.noise_key": secret, "federation.tau": 1}, {"privacy": {"noise_key": secret}}]
    primary = ({"where": {"privacy.noise_key": secret}, "against": "local", "method": "spire"},)
    for values in (
        {"settings": private | {"privacy.noise_key": secret}},
        {"settings": private | {"privacy": {"noise_key": secret}}},
        {"settings": private, "axes": {"privacy.noise_key": [secret, None]}},
        {"settings": private, "axes": {"pair": pair}, "primary": primary},
    ):
        sweep = sweep_of(**values)
        found = trials(sweep)[0]
        assert found.config.privacy.noise_key == secret
        shown = repr((asdict(sweep.labelled()), found.overrides, found.point, found.label))
        assert secret not in shown
        assert label in repr(asdict(sweep.labelled()))
        assert label in "".join(found.overrides)
        other = trials(sweep.labelled())
        assert [t.trial_id for t in other] == [t.trial_id for t in trials(sweep)]
    plain = sweep_of(settings=private, axes={"federation.tau": [1, 2]})
    assert plain.labelled() == plain


def test_without_axes_a_sweep_is_its_seeds() -> None:
    assert labels(sweep_of(seeds=(5, 1))) == ["spire seed=5", "spire seed=1"]


def test_combinations_that_mean_the_same_are_one_trial() -> None:
    axes = {"method": ["spire", "fedavg_ft", "shared_rep"], "model.d_emb": [4, 8, 16]}
    assert labels(sweep_of(axes=axes)) == [
        "spire d_emb=4 seed=0",
        "spire d_emb=8 seed=0",
        "spire d_emb=16 seed=0",
        "fedavg_ft seed=0",  # has no embedding
        "shared_rep seed=0",
    ]
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


def test_a_pretraining_may_be_shared_with_other_sweeps() -> None:
    axes = {"method": ["spire", "local"]}
    alone, with_others = (
        [t.shares_pretraining for t in trials(sweep_of(axes=axes, share_pretraining=where))]
        for where in ("sweep", "root")
    )
    assert alone == [False, False]
    assert with_others == [True, False]  # local has none
    with pytest.raises(ConfigError, match="share_pretraining as sweep or root"):
        sweep_of(share_pretraining="always")
    with pytest.raises(ConfigError, match=r"share_pretraining=sweep with data\.path"):
        sweep_of(share_pretraining="root", settings={"data": {"name": "folder", "path": "a"}})
    with pytest.raises(ConfigError, match=r"share_pretraining=sweep with model\.backbone"):
        sweep_of(share_pretraining="root", settings={"model.backbone": "a"})


def test_what_a_search_draws_shares_its_pretraining_with_what_it_draws_later() -> None:
    sweep = sweep_of(axes=RANGES, search="optuna", num_trials=2)
    for method in (0, 1):
        point = {"client.lr": 0.01, "adapt.epochs": 3, "method": method}
        [trial] = trials(sweep, [point_of(sweep, point)])
        assert trial.shares_pretraining
    assert all(trial.shares_pretraining for trial in probes(sweep))


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
    with pytest.raises(ConfigError, match=r"primary method as one of spire, .*, got 'ditto'"):
        sweep_of(primary=({"method": "ditto"},))


def test_other_places_to_run_in_make_no_other_sweep() -> None:
    here = sweep_of(settings={"adapt": {"epochs": 1}})
    elsewhere = sweep_of(settings={"adapt.epochs": 1, "resources.num_actors": 8})
    assert here.key == elsewhere.key
    assert here.key != sweep_of(settings={"adapt.epochs": 1, "tracking.enabled": False}).key
    assert [t.trial_id for t in trials(here)] == [t.trial_id for t in trials(elsewhere)]


def test_a_folder_of_images_is_another_one_in_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def identity(path: str) -> tuple[str, str]:
        settings = {"data": {"name": "folder", "path": path, "image_size": 16}}
        sweep = sweep_of(settings=settings)
        [trial] = trials(sweep)
        return sweep.key, trial.trial_id

    found = {}
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        found[name] = identity("photos")
    assert not set(found["here"]) & set(found["there"])
    assert {n: identity(str(tmp_path / n / "photos")) for n in found} == found


# --- drawn points ---------------------------------------------------------------------------------


RANGES = {
    "client.lr": {"min": 1e-4, "max": 1e-1, "log": True},
    "adapt.epochs": {"min": 1, "max": 9, "integer": True},
    "method": ["spire", "fedavg_ft"],
}


def test_random_search_keeps_its_first_points_when_more_are_drawn() -> None:
    few = trials(sweep_of(axes=RANGES, search="random", num_trials=4))
    many = trials(sweep_of(axes=RANGES, search="random", num_trials=24))
    assert len(many) == 24
    assert {t.trial_id for t in few} < {t.trial_id for t in many}
    rates = sorted(t.config.client.lr for t in many)
    assert 1e-4 <= rates[0] < 1e-3  # of a log range, a third lies below
    assert 1e-2 < rates[-1] <= 1e-1
    assert {1, 9} <= {t.config.adapt.epochs for t in many} <= {*range(1, 10)}
    assert {t.config.method.name for t in many} == {"spire", "fedavg_ft"}


@pytest.mark.parametrize(
    ("is_log", "shares"),
    [(False, [0.25] * 4), (True, [math.log((n + 1) / n) / math.log(5) for n in range(1, 5)])],
)
def test_random_search_draws_each_whole_number_as_often_as_the_search_of_optuna(
    is_log: bool, shares: list[float]
) -> None:
    """The ends too, which rounded draws would have half as often; 1 to 4 here."""
    axis = {"min": 1, "max": 4, "integer": True, "log": is_log}
    sweep = sweep_of(axes={"adapt.epochs": axis}, search="random", num_trials=2000)
    drawn = [point["adapt.epochs"] for point in _random(sweep)]
    assert [drawn.count(n) / 2000 for n in range(1, 5)] == pytest.approx(shares, abs=0.04)
    theirs = _domain(axis).sample(size=4000, random_state=0).tolist()
    assert [theirs.count(n) / 4000 for n in range(1, 5)] == pytest.approx(shares, abs=0.04)
    assert {type(n) for n in drawn} == {int}


@pytest.mark.parametrize("is_log", [False, True])
@pytest.mark.parametrize("end", [4, 2**62])
def test_the_last_draw_of_a_range_is_not_beyond_its_end(end: int, is_log: bool) -> None:
    """Though the float after it is that of the end plus one."""
    axis = {"min": 1, "max": end, "integer": True, "log": is_log}
    assert 0.99 * end < _draw(axis, 1 - 2**-53) <= end


@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-53])
def test_few_digits_do_not_lead_out_of_a_narrow_range(u: float) -> None:
    assert 0.12341 <= _draw({"min": 0.12341, "max": 0.12349}, u) <= 0.12349


def test_random_search_runs_a_point_that_it_draws_twice_once() -> None:
    axes = {"method": ["spire", "fedavg_ft"]}
    assert len(trials(sweep_of(axes=axes, search="random", num_trials=20))) == 2


def test_a_drawn_point_is_read_back_as_values() -> None:
    sweep = sweep_of(axes=RANGES, search="optuna", num_trials=2)
    point = point_of(sweep, {"client.lr": 0.00123456, "adapt.epochs": 3.0, "method": 1})
    assert point == {"client.lr": 0.001235, "adapt.epochs": 3, "method": "fedavg_ft"}
    tried = [(t.config.client.lr, t.config.adapt.epochs) for t in probes(sweep)]
    assert {1e-4, 1e-1} == {lr for lr, _ in tried}
    assert {1, 9} == {epochs for _, epochs in tried}


@pytest.mark.parametrize(
    ("axis", "wrong"),
    [
        ({"model.d_emb": {"min": 8, "max": 64}}, "got model.d_emb: "),
        ({"model.width": {"min": 16, "max": 64, "integer": True}}, "model.width as a multiple of"),
    ],
)
def test_what_lies_between_the_ends_of_a_range_is_looked_at_before_a_search(
    axis: dict[str, Any], wrong: str
) -> None:
    with pytest.raises(ConfigError, match=wrong):
        probes(sweep_of(axes=axis, search="optuna", num_trials=9))


def test_a_search_learns_nothing_from_a_result_without_its_metric() -> None:
    """A method without rounds reports none of theirs; the others' trials go on."""
    axes = {"method": ["spire", "local"]}
    metric = "pretrain/kid/mean"
    sweep = sweep_of(axes=axes, search="optuna", num_trials=2, metric=metric)
    search = optuna_search(sweep, SearchHistory())
    for tune_id, found in (("a", {}), ("b", {metric: None}), ("c", {metric: 1.0})):
        assert set(search.suggest(tune_id)) == {"method"}
        search.on_trial_result(tune_id, {"training_iteration": 1} | found)
        search.on_trial_complete(tune_id, found)


@pytest.mark.parametrize("seed", [-5, 0, 5_000_000_000, -(2**62)])
def test_a_search_of_optuna_takes_every_seed(seed: int) -> None:
    axes = {"adapt.lr": {"min": 0.01, "max": 1.0}}
    sweep = sweep_of(axes=axes, search="optuna", num_trials=2, seeds=(seed,))

    def first(history: SearchHistory) -> Any:
        return optuna_search(sweep, history).suggest("a")

    assert first(SearchHistory()) == first(SearchHistory())
    evaluated = SearchHistory([({"adapt.lr": 0.5}, 1.0)])
    assert first(SearchHistory()) != first(evaluated)
    assert first(SearchHistory(num_lost=1)) != first(SearchHistory())  # a failed draw is not drawn
    assert first(SearchHistory((), [{"adapt.lr": 0.25}])) == {"adapt.lr": 0.25}


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
    assert trials(one) if one.search != "optuna" else probes(one)


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


def test_an_axis_that_is_written_as_a_group_is_answered_by_its_key() -> None:
    with pytest.raises(ConfigError, match=r"axes\.model as .*: such as model\.d_emb: \["):
        sweep_of(axes={"model": {"d_emb": [16, 64]}})


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


def sentence(error: pytest.ExceptionInfo[ConfigError]) -> str:
    text = str(error.value)
    assert text.startswith("expected ")
    assert len(text) < 600
    return text


@pytest.mark.parametrize("key", sorted({*BY_PATH} - {"eval.extractor_weights"}))  # a hash tells
def test_relative_paths_of_two_folders_make_two_sweeps(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        keys.append(sweep_of(settings={key: "mine"}).key)
        assert keys[-1] == sweep_of(settings={key: str(tmp_path / name / "mine")}).key
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("preset", "key", "path"),
    [
        ("folder-cpu", "data.path", "photos"),
        ("retrofit-cpu", "model.backbone", "backbones/mnist16"),
    ],
)
def test_a_presets_relative_path_is_that_of_the_command(
    preset: str, key: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that trials of one folder never count as those of another."""
    found = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        sweep = sweep_of(preset=preset, settings={}, axes={"adapt.lr": [0.1]}, seeds=(0,))
        [trial] = trials(sweep)
        assert flattened(trial.config.as_dict())[key] == str(tmp_path / name / path)
        assert trial.trial_id == fingerprint(located(trial.config))[:12]
        found.append((sweep.key, trial.trial_id))
    assert {*found[0]}.isdisjoint(found[1])
    elsewhere = sweep.located()
    monkeypatch.chdir(tmp_path)
    assert (elsewhere.key, trials(elsewhere)[0].trial_id) == found[1]
    for own in ({"settings": {key: "/of/mine"}}, {"axes": {key: ["/of/mine"]}}):
        mine = sweep_of(**{"preset": preset, "seeds": (0,)} | own)
        assert str(tmp_path) not in str((mine.located().settings, trials(mine)[0].overrides))
    with pytest.raises(ConfigError, match=f"expected share_pretraining=sweep with {key}"):
        sweep_of(preset=preset, share_pretraining="root", axes={"adapt.lr": [0.1]})


@pytest.mark.parametrize(
    ("metric", "settings", "told"),
    [
        ("final/adapt_kid_after", {"federation.num_new_clients": 0}, "num_new_clients above 0"),
        (
            "pretrain/tv/mean",
            {"model.text": "words", "model.words": ["a"]},
            "model.text=none",
        ),
        ("pretrain/tv/mean", {"eval.extractor": "none"}, "the data set's own classifier"),
        (
            "final/adapt_tv_after",
            {"eval.extractor": "cifar10-cnn"},
            "the data set's own classifier",
        ),
        ("final/adapt_tv_after", {"partition.style": "tint"}, "the data set's own classifier"),
    ],
)
def test_a_search_by_what_no_trial_has_is_refused(
    metric: str, settings: dict[str, Any], told: str
) -> None:
    more = {"axes": {"client.lr": {"min": 1e-4, "max": 1e-2}}, "num_trials": 2, "metric": metric}
    with pytest.raises(ConfigError, match=f"{told}.* for a search or a scheduler"):
        probes(sweep_of(search="optuna", settings=settings, **more))
    assert probes(sweep_of(search="random", settings=settings, **more))
    if metric.startswith("pretrain/"):
        stopping = {"scheduler": "asha", "metric": metric, "axes": {"client.lr": [0.1]}}
        with pytest.raises(ConfigError, match=f"{told}.* for a search or a scheduler"):
            trials(sweep_of(settings=settings, **stopping))
    assert probes(sweep_of(search="optuna", **more))


def test_a_named_data_set_has_no_path_to_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a Ray job a relative path would be refused: `data.path=photos` is the preset's."""
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    sweep = sweep_of(preset="folder-cpu", settings={"data": "mnist"}, axes={"adapt.lr": [0.1]})
    assert "photos" not in str((sweep.located().settings, trials(sweep)[0].overrides))
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR")
    paths = {"a": [{"data.path": "x", "adapt.lr": 0.1}], "data.captions": ["y"]}
    located = sweep_of(preset="folder-cpu", axes=paths).located()
    assert located.axes["a"] == [{"data.path": str(Path("x").absolute()), "adapt.lr": 0.1}]
    assert located.axes["data.captions"] == ["y"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"search": "optuna", "num_trials": 2, "seeds": (0, 1)}, "one seed with optuna"),
        ({"search": "random", "num_trials": 0}, "num_trials of at least 1"),
        ({"axes": {"a": [{"client.lr": 1}], "client.lr": [1]}}, "one axis for client.lr, got two"),
        (
            {"axes": {"a": [{"client.lr": 1}, {"adapt.lr": 1}], "client.lr": [1, 2]}},
            "one axis for client.lr, got two",
        ),
        (
            {"axes": {"a": [{"client.lr": 1}, {"adapt.lr": 1}], "b": [{"adapt.lr": 2}, {}]}},
            "one axis for adapt.lr, got two",
        ),
        ({"axes": {"a": [{"client.lr": 1}, {"seed": 5}]}}, "seeds=[0, 1]"),
        (
            {"axes": {"a/b": [{"client.lr": 1}]}, "search": "optuna", "num_trials": 2},
            "a name without / for an axis of search=optuna, got axes.a/b: rename it",
        ),
        ({"axes": {"resources.num_actors": [1, 2]}}, "got resources.num_actors, with which they"),
        (
            {
                "axes": {"resources.num_cpus": {"min": 1, "max": 2}},
                "search": "random",
                "num_trials": 2,
            },
            "expected axes.resources.num_cpus to vary what results depend on",
        ),
        ({"axes": {"tracking.experiment": ["mine"]}}, "write it under settings"),
        ({"axes": {"data": [{"data": {"root": "/a"}}]}}, "got data.root, with which they stay"),
        (
            {"axes": {"a": [{"client.lr": 1}, {"client.lr": 1, "eval.extractor_weights": "f"}]}},
            "got eval.extractor_weights",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        sweep_of(**values)
    assert told in sentence(error)


def test_what_changes_no_result_may_go_with_what_does() -> None:
    how = [{"method": "spire", "resources.num_actors": 2}, {"method": "local"}, {"method": "local"}]
    found = trials(sweep_of(axes={"how": how, "a/b": [{"client.lr": 0.1}]}))
    assert [trial.config.resources.num_actors for trial in found] == [2, "auto"]


@pytest.mark.parametrize(
    "axis",
    [
        {"min": 1},
        {"min": 2, "max": 1},
        {"min": 0, "max": 1, "log": True},
        {"min": 0, "max": 1, "step": 0.1},
        {"min": 0.5, "max": 3.5, "integer": True},
        {"min": "a", "max": "b"},
        {"min": True, "max": 2},
        {"min": 1, "max": 2, "log": "no"},
        {"min": 1, "max": 2, "integer": "false"},
    ],
)
def test_a_range_has_two_ends_in_order(axis: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"or a range \{min: A, max: B"):
        sweep_of(axes={"client.lr": axis}, search="random", num_trials=2)


def test_asha_needs_rounds_and_a_metric_of_rounds() -> None:
    with pytest.raises(ConfigError, match="while rounds run"):
        sweep_of(scheduler="asha")
    metric = "pretrain/kid/mean"
    sweep = sweep_of(scheduler="asha", metric=metric, axes={"method": ["spire", "local"]})
    with pytest.raises(ConfigError, match="methods with rounds for scheduler=asha, got local"):
        trials(sweep)


@pytest.mark.parametrize("every", [0, 20, 21])
def test_asha_needs_scores_before_the_last_round(every: int) -> None:
    """The preset has 20 rounds."""

    def planned(every: int) -> list[Any]:
        settings = {"eval.every": every}
        return trials(sweep_of(scheduler="asha", metric="pretrain/kid/mean", settings=settings))

    assert len(planned(19)) == 1
    with pytest.raises(ConfigError, match=f"below federation.num_rounds=20 for .*, got {every}: "):
        planned(every)


@pytest.mark.parametrize("style", ["none", "tint"])
@pytest.mark.parametrize("extractor", ["auto", "none", "mnist-cnn", "cifar10-cnn"])
def test_a_search_knows_the_extractor_that_a_run_will_take(extractor: str, style: str) -> None:
    """By a rule of its own, which needs no torch."""
    for data in (*DATASETS, "folder"):
        words = [f"data.name={data}", f"eval.extractor={extractor}", f"partition.style={style}"]
        words += ["data.path=photos"] * (data == "folder")
        config = load_config("smoke", words)
        predicts = is_classifier_of(extractor_of(config), data)
        assert _has_own_classifier(config) == predicts, words
