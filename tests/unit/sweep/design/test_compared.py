"""Primary comparisons of a sweep's file: each is of methods and settings that its trials have."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config.load import known_keys
from pipeline.config.schema import Config
from spire_core.errors import ConfigError
from sweeps.design.load import load_study, load_sweep
from sweeps.primary import TASK, TUNED_KID, primaries

AXES = "axes: {method: [spire, fedavg_ft], adapt.num_images: [4, 16], model.d_emb: [4, 8], %s}\n"


OF_METHODS = {  # settings of privacy and of evaluation that runs of one task may differ in
    "privacy": "noise_key adapt.clip_norm adapt.steps adapt.draws adapt.lr "
    "adapt.batch_size adapt.mechanism rounds.clip_norm rounds.clip_quantile "
    "rounds.noise_cohort",
    "eval": "metrics every guidance guidance_interval text_guidance controls grid_images "
    "batch_size extractor extractor_weights",  # by the hash of its weights: see `parameters`
}


def written(folder: Path, primary: str, more: str = "client.lr: [0.1]") -> str:
    path = folder / "mine.yaml"
    path.write_text(f"preset: smoke\n{AXES % more}primary: [{primary}]\n")
    return str(path)


@pytest.mark.parametrize(
    "where",
    [
        "adapt.num_images: 4",
        "adapt: {num_images: 16.0}",
        "adapt.num_images: 4, model.d_emb: 8",  # which fedavg_ft does not read
        "model.multipliers: [1, 2], eval.controls: false",
        "partition: dirichlet, data.name: mnist",
    ],
)
def test_a_comparison_at_settings_of_some_trials_is_taken(where: str, tmp_path: Path) -> None:
    more = "model.multipliers: [[1, 2]], partition: [dirichlet], data.name: [mnist]"
    file = written(tmp_path, f"{{method: fedavg_ft, where: {{{where}}}}}", more)
    assert len(load_sweep(file).primary) == 1


def test_fine_tuned_clients_can_be_compared_where_they_fine_tune(tmp_path: Path) -> None:
    one = f"{{method: fedavg_ft, measure: {TUNED_KID}, where: {{adapt.num_images: 4}}}}"
    assert load_sweep(written(tmp_path, one, "adapt.tune_epochs: [0, 1]")).primary


def test_settings_may_be_nested_by_group() -> None:
    nested = {"adapt": {"num_images": 4}, "privacy": {"adapt": {"epsilon": 8}}, "data": "mnist"}
    (one,) = primaries([{"method": "local", "where": nested}])
    flat = {"adapt.num_images": 4, "privacy.adapt.epsilon": 8, "data.name": "mnist"}
    assert one.where == flat
    other = {"method": "spire", "where": nested, "against_where": nested | {"model": {"d_emb": 4}}}
    assert primaries([other])[0].against_where == flat | {"model.d_emb": 4}
    with pytest.raises(ConfigError, match="different primary comparisons"):
        primaries([{"method": "local", "where": where} for where in (nested, flat)])


@pytest.mark.parametrize(
    ("primary", "words"),
    [
        (
            "{method: fedavg_ft, where: {adapt.num_imges: 4}}",
            "^expected known keys in a primary where, got 'adapt.num_imges': did you mean "
            "adapt.num_images",
        ),
        (
            "{method: fedavg_ft, where: {adapt: {images: 4}}}",
            "got 'adapt.images': did you mean adapt.num_images",
        ),
        (
            "{method: local}",
            "^expected primary comparisons of the sweep's methods, got 'local': choose out of "
            "spire, fedavg_ft, or add it",
        ),
        ("{method: fedavg_ft, against: local}", "got 'local'"),
        (
            "{method: fedavg_ft, where: {adapt: {num_images: 40}}}",
            "^expected trials of fedavg_ft with adapt.num_images=40 for a primary comparison, got "
            "none: change its where",
        ),
        (
            "{method: spire, against_where: {model.d_emb: 5}}",
            "^expected trials of spire with model.d_emb=5 for a primary comparison",
        ),
        (
            "{method: spire, where: {model.d_emb: 4}, against_where: {adapt.init: zero}}",
            "^expected two sides of a primary comparison that share no trials, got new clients' "
            "KID at model.d_emb=4",
        ),
        (
            "{method: spire, where: {adapt.num_images: 4}, against_where: {adapt.num_images: 16}}",
            "^expected both sides of a primary comparison with the same adapt.num_images",
        ),
        (
            "{method: spire, against_where: {adapt.images: 5}}",
            "^expected known keys in a primary where, got 'adapt.images'",
        ),
        (
            "{method: fedavg_ft, where: {model.d_emb: 16}}",  # which spire alone reads
            "^expected trials of spire with model.d_emb=16",
        ),
        (
            "{method: fedavg_ft, where: {privacy.adapt.mechanism: dp_sgd}}",
            r"^expected privacy.adapt.epsilon in every trial of fedavg_ft with "
            r"privacy.adapt.mechanism=dp_sgd for .*, got some in which privacy.adapt.mechanism has "
            "no effect: name it in where too",
        ),
        (
            "{method: fedavg_ft, where: {partition.alpha: 0.1}}",
            "^expected partition=inner_dirichlet or dirichlet or independent in every trial",
        ),
        (
            "{method: fedavg_ft, where: {model.backbone: null}}",
            "^expected settings that runs record in a primary where, got 'model.backbone'",
        ),
        (
            f"{{method: fedavg_ft, measure: {TUNED_KID}}}",
            r"^expected pre-training clients of fedavg_ft that train on \(adapt.tune_epochs above",
        ),
    ],
)
def test_a_comparison_that_no_trial_could_be_part_of_is_refused(
    primary: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        load_sweep(written(tmp_path, primary))


def test_with_captions_kid_is_no_comparison(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = (
        "preset: fonts-cpu\naxes: {method: [spire, fedavg_ft]}\nprimary: [{method: fedavg_ft%s}]\n"
    )
    path.write_text(text % "")
    with pytest.raises(
        ConfigError, match=r"^expected a primary comparison without KID where model"
    ):
        load_sweep(str(path))
    path.write_text(text % ", measure: final/adapt_style_distance_after")
    assert load_sweep(str(path)).primary


def test_a_setting_that_some_trials_switch_off_stands_with_what_switches_it_on(
    tmp_path: Path,
) -> None:
    """Its value there, such as the default, is none that these trials have."""
    more = "world: [{partition.classes_per_client: 2}, {partition: iid}]"
    where = "{method: fedavg_ft, where: {partition.classes_per_client: 2%s}}"
    with pytest.raises(ConfigError, match="expected partition=pathological in every"):
        load_sweep(written(tmp_path, where % "", more))
    assert load_sweep(written(tmp_path, where % ", partition: pathological", more)).primary
    nothing = "{method: fedavg_ft, where: {partition: iid, privacy.adapt.epsilon: null}}"
    assert load_sweep(written(tmp_path, nothing, more)).primary
    unread = "{method: fedavg_ft, where: {method.entrance: blocks}, against_where: {}}"
    assert load_sweep(written(tmp_path, unread, more)).primary


def test_values_that_go_together_are_compared_together(tmp_path: Path) -> None:
    more = "pair: [{adapt.epochs: 2, client.lr: 0.1}, {adapt.epochs: 3, client.lr: 0.2}]"
    where = "{method: fedavg_ft, where: {adapt.epochs: 3, client.lr: %s}}"
    assert load_sweep(written(tmp_path, where % 0.2, more)).primary
    with pytest.raises(ConfigError, match=r"adapt\.epochs=3, client\.lr=0\.1"):
        load_sweep(written(tmp_path, where % 0.1, more))


def test_a_command_may_run_a_part_of_a_study(tmp_path: Path) -> None:
    file = written(tmp_path, "{method: fedavg_ft, where: {adapt.num_images: 4}}")
    parts = ["axes.adapt.num_images=[16]", "axes.method=[spire]", "seeds=[3]"]
    sweep = load_sweep(file, parts)
    assert (sweep.seeds, sweep.axes["method"]) == ((3,), ["spire"])
    assert load_sweep("fonts", ["axes.adapt.num_images=[16]"]).primary
    with pytest.raises(ConfigError, match="got 'local'"):
        load_sweep(file, ["primary=[{method: local}]"])
    with pytest.raises(ConfigError, match="known keys in a primary where"):
        load_sweep(file, ["primary=[{method: fedavg_ft, where: {a: 1}}]"])


def test_a_study_is_recorded_with_the_seeds_and_axes_of_its_file(tmp_path: Path) -> None:
    """A command that begins with a part of it leaves its size as it was written down."""
    file = written(tmp_path, "{method: fedavg_ft}")
    whole = load_sweep(file)
    words = ["axes.adapt.num_images=[16]", "axes.method=[spire]", "seeds=[3]"]
    sweep, recorded = load_study(file, words)
    assert (sweep.seeds, recorded) == ((3,), whole)
    _, recorded = load_study(file, [*words, "adapt.epochs=1"])
    assert recorded == replace(whole, settings={"adapt.epochs": 1})
    more = ["axes={method: [spire, fedavg_ft]}", "client.lr=0.2"]  # which is an axis of the file
    sweep, recorded = load_study(file, more)
    assert recorded == sweep
    sweep, recorded = load_study(file, [*words, "search=optuna", "num_trials=3"])
    assert recorded == sweep, "with other axes it is another search"
    (tmp_path / "mine.yaml").write_text("preset: smoke\nseeds: [0, 1]\n")
    sweep, recorded = load_study(file, ["seeds=[0]"])
    assert recorded == sweep, "it is about nothing that was written down"


def test_a_file_that_is_whole_only_with_words_is_judged_with_them(tmp_path: Path) -> None:
    more = "client.lr: {min: 0.01, max: 0.1}"
    file, words = written(tmp_path, "{method: fedavg_ft}", more), ["search=random", "num_trials=2"]
    assert load_sweep(file, words).primary
    file = written(tmp_path, "{method: local}", more)
    with pytest.raises(ConfigError, match="got 'local'"):
        load_sweep(file, words)


def test_every_promise_and_every_way_of_scoring_is_a_task_of_its_own() -> None:
    """A new setting of these groups is one or the other: a score is no choice among promises."""
    keys = {key for key in known_keys(Config) if key.startswith(("privacy.", "eval."))}
    named = {f"{group}.{key}" for group, own in OF_METHODS.items() for key in own.split()}
    assert {key for key in keys if not key.startswith(TASK)} == named
