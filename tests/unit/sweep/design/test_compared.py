"""Primary comparisons of a sweep's file: each is of methods and settings that its trials have."""

from pathlib import Path

import pytest

from spire_core.errors import ConfigError
from sweeps.design.config import load_sweep
from sweeps.design.points import check_compared

AXES = "axes: {method: [spire, fedavg_ft], adapt.num_images: [4, 16], model.d_emb: [4, 8], %s}\n"


def written(folder: Path, primary: str, more: str = "client.lr: [0.1]") -> str:
    path = folder / "mine.yaml"
    path.write_text(f"preset: smoke\n{AXES % more}primary: [{primary}]\n")
    return str(path)


@pytest.mark.parametrize(
    "where",
    [
        "adapt.num_images: 4, model.d_emb: 8",  # which fedavg_ft does not read
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
        ("{method: local}", "^expected trials of local for the primary comparison"),
        (
            "{method: fedavg_ft, where: {model.d_emb: 16}}",  # which spire alone reads
            "^expected trials of spire for .* at model.d_emb=16",
        ),
        ("{method: fedavg_ft, measure: final/adapt_nn_excess}", "^expected scale: difference for"),
    ],
)
def test_a_comparison_that_no_trial_could_be_part_of_is_refused(
    primary: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        check_compared(load_sweep(written(tmp_path, primary)))
