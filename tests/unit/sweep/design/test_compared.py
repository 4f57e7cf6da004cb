"""Primary comparisons of a sweep's file: each is of methods and settings that its trials have."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config.load import known_keys
from pipeline.config.schema import Config
from spire_core.errors import ConfigError
from sweeps.design.config import load_study
from sweeps.design.points import check_compared
from sweeps.primary import TASK, primaries

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
    check_compared(load_study(file)[1])


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
            "'adapt.num_imges': did you mean adapt.num_images",
        ),
        ("{method: fedavg_ft, where: {seed: 0}}", "in a primary where that tell recorded runs"),
        ("{method: fedavg_ft, where: {model.backbone: null}}", "that tell recorded runs apart"),
        ("{method: local}", "^expected trials of local for a primary comparison, got none"),
        ("{method: fedavg_ft, against: local}", "trials of local for"),
        (
            "{method: fedavg_ft, where: {adapt: {num_images: 40}}}",
            "^expected trials of fedavg_ft with adapt.num_images=40 for a primary comparison",
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
            "{method: fedavg_ft, where: {model.d_emb: 16}}",  # which spire alone reads
            "^expected trials of spire with model.d_emb=16",
        ),
        ("{method: spire}", "^expected primary method and against that differ"),
        ("{method: fedavg_ft, measure: final/adapt_nn_excess}", "^expected scale: difference for"),
    ],
)
def test_a_comparison_that_no_trial_could_be_part_of_is_refused(
    primary: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        check_compared(load_study(written(tmp_path, primary))[1])


def test_values_that_go_together_are_compared_together(tmp_path: Path) -> None:
    more = "pair: [{adapt.epochs: 2, client.lr: 0.1}, {adapt.epochs: 3, client.lr: 0.2}]"
    where = "{method: fedavg_ft, where: {adapt.epochs: 3, client.lr: %s}}"
    check_compared(load_study(written(tmp_path, where % 0.2, more))[1])
    with pytest.raises(ConfigError, match=r"adapt\.epochs=3, client\.lr=0\.1"):
        check_compared(load_study(written(tmp_path, where % 0.1, more))[1])


def test_a_study_is_recorded_with_the_seeds_and_axes_of_its_file(tmp_path: Path) -> None:
    """A command that begins with a part of it leaves its size as it was written down."""
    file = written(tmp_path, "{method: fedavg_ft}")
    whole, _ = load_study(file)
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


def test_every_promise_and_every_way_of_scoring_is_a_task_of_its_own() -> None:
    """A new setting of these groups is one or the other: a score is no choice among promises."""
    keys = {key for key in known_keys(Config) if key.startswith(("privacy.", "eval."))}
    named = {f"{group}.{key}" for group, own in OF_METHODS.items() for key in own.split()}
    assert {key for key in keys if not key.startswith(TASK)} == named
