"""Primary comparisons of a sweep's file: each is of methods and settings that its trials have."""

from pathlib import Path

import pytest

from pipeline.config.load import known_keys
from pipeline.config.schema import Config
from spire_core.errors import ConfigError
from sweeps.design.config import load_sweep
from sweeps.design.points import check_compared
from sweeps.primary import TASK

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
        "partition.name: dirichlet, data.name: mnist, client.lr: 0.2, adapt.epochs: 3",
    ],
)
def test_a_comparison_at_settings_of_some_trials_is_taken(where: str, tmp_path: Path) -> None:
    more = "model.multipliers: [[1, 2]], partition: [dirichlet], data.name: [mnist], "
    more += "pair: [{adapt.epochs: 2, client.lr: 0.1}, {adapt.epochs: 3, client.lr: 0.2}]"
    file = written(tmp_path, f"{{method: fedavg_ft, where: {{{where}}}}}", more)
    check_compared(load_sweep(file))
    apart = "{method: fedavg_ft, where: {adapt.epochs: 3, client.lr: 0.1}}"
    with pytest.raises(ConfigError, match=r"adapt\.epochs=3, client\.lr=0\.1"):
        check_compared(load_sweep(written(tmp_path, apart, more)))


@pytest.mark.parametrize(
    ("primary", "words"),
    [
        (
            "{method: fedavg_ft, where: {adapt.num_imges: 4}}",
            "'adapt.num_imges': did you mean adapt.num_images",
        ),
        ("{method: fedavg_ft, where: {seed: 0}}", "in a primary where that tell recorded runs"),
        ("{method: fedavg_ft, where: {model.backbone: null}}", "that tell recorded runs apart"),
        ("{method: local}", "^expected trials of local for the primary comparison"),
        (
            "{method: fedavg_ft, where: {model.d_emb: 16}}",  # which spire alone reads
            "^expected trials of spire for .* at model.d_emb=16",
        ),
        ("{method: spire}", "^expected two methods in a comparison, got spire"),
        ("{method: fedavg_ft, measure: final/adapt_nn_excess}", "^expected scale: difference for"),
    ],
)
def test_a_comparison_that_no_trial_could_be_part_of_is_refused(
    primary: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        check_compared(load_sweep(written(tmp_path, primary)))


def test_every_promise_and_every_way_of_scoring_is_a_task_of_its_own() -> None:
    """A new setting of these groups is one or the other: a score is no choice among promises."""
    keys = {key for key in known_keys(Config) if key.startswith(("privacy.", "eval."))}
    named = {f"{group}.{key}" for group, own in OF_METHODS.items() for key in own.split()}
    assert {key for key in keys if not key.startswith(TASK)} == named
