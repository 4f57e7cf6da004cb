"""docs/extending.md: its package, installed, gives a method, a term, data and a metric by name."""

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import spire
from pipeline.config.load import load_config
from pipeline.config.plugins import ALL_PLUGINS
from pipeline.federation.setup import prepare
from pipeline.results.recording import run_tags
from spire_core.errors import ConfigError
from spire_core.methods import METHODS
from spire_core.network.unet import UNet
from spire_core.partition.schemes import SCHEMES
from sweeps.cli import main
from sweeps.design.config import load_sweep
from sweeps.design.points import trials

PAGE = Path(__file__).parents[3] / "docs" / "extending.md"
TINY = ("resources.pool=local", "tracking.enabled=false", "federation.num_rounds=2")
TINY += ("eval.every=0", "eval.num_images=8", "eval.num_loss_images=8", "adapt.epochs=1")
TINY += ("diffusion.sample_steps=2", "federation.num_clients=4", "federation.cohort_size=2")


@pytest.fixture(autouse=True)
def installed(
    outside: Path, mnist_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for plugins in ALL_PLUGINS:
        monkeypatch.setattr(plugins, "_found", {})
    monkeypatch.syspath_prepend(str(outside))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPIRE_ROOT", str(tmp_path))
    monkeypatch.setenv("SPIRE_DATA", str(mnist_root))


def commands() -> list[list[str]]:
    blocks = re.findall(r"```\n(spire .*?)```", PAGE.read_text(), re.DOTALL)
    return [shlex.split(line)[1:] for block in blocks for line in block.splitlines()]


def typed(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main([*words, *TINY, "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


def test_each_command_of_the_page_runs(outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both, calm, own, _, backbone = commands()
    exec(compile((outside / "make_backbone.py").read_text(), str(PAGE), "exec"), {})
    result = typed(both, capsys)
    assert result["params_trainable_new_client"] > 16  # the embedding and layers
    result = typed(calm, capsys)
    assert {"final/adapt_contrast_gap_before", "final/adapt_contrast_gap_after"} <= {
        *result["metrics"]
    }
    tags = run_tags(prepare(load_config("smoke", calm[2:])), "smoke")
    assert tags["plugin.method.calm"] == tags["plugin.dataset.bars"] == "spire-outside 1.2"
    tags = run_tags(prepare(load_config("smoke", own[2:])), "smoke")
    assert tags["plugin.method.own"] == tags["plugin.partition.parity"] == "spire-outside 1.2"
    assert typed(own, capsys)["method"] == "own"
    record = Path(result["artifacts"]["run_dir"])
    more = ["--data", "bars", "--num-images", "16", "adapt.epochs=1"]
    assert main(["adapt", str(record), *more]) == 0
    capsys.readouterr()
    assert typed(backbone, capsys)["method"] == "lora"


def test_a_process_can_do_without_a_package(
    outside: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(compile((outside / "notebook.py").read_text(), str(PAGE), "exec"), {})
    settings = {"method": "mild", "data": "my_bars", "eval.metrics": ["peak"]}
    with pytest.raises(ConfigError, match=r"'mild', got one that this process has registered"):
        spire.run("smoke", settings | {"eval.extractor": "mnist-cnn"})
    file = tmp_path / "mild.yaml"
    file.write_text("preset: smoke\nsettings: {method: mild, resources.pool: local}\n")
    assert main(["sweep", str(file)]) == 2
    assert "which Ray's workers lack" in capsys.readouterr().err


def test_functions_that_change_nothing_give_the_same_run() -> None:
    def unchanged(net: Any, client_emb: Any, batch: Any) -> Any:
        assert client_emb.shape == (len(batch.x0), 16)
        assert batch.output.shape == batch.xt.shape
        return 0 * batch.output.mean((1, 2, 3))

    record = dataclasses.replace(
        METHODS["spire"],
        name="same",
        loss=unchanged,
        network=UNet,
        weight=lambda update, broadcast: update.num_examples,
        server_step=lambda weights, mean, velocity: (mean, velocity),
    )
    spire.register_method(record)
    spire.register_partition("same_iid", SCHEMES["iid"])
    ours = spire.run("smoke", [*TINY, "partition=iid", "client.engine=loop"], is_quiet=True)
    own = spire.run("smoke", [*TINY, "partition=same_iid", "method=same"], is_quiet=True)
    assert own.setting.partition.hash == ours.setting.partition.hash
    np.testing.assert_allclose(own.pretraining.weights, ours.pretraining.weights, atol=1e-6)
    score = "final/adapt_heldout_after"
    assert own.metrics[score] == pytest.approx(ours.metrics[score], rel=1e-5)


def test_a_weight_and_a_step_are_those_of_the_mean(mnist_root: Path) -> None:
    """One client counts for all: with its weight alone, and a step that stops half way to it."""
    ends = []

    def heavy(update: Any, broadcast: Any) -> int:
        ends.append((update.client_id, update.weights))
        return 2**20 if update.client_id == 0 else 1

    def half(weights: Any, mean: Any, velocity: Any) -> Any:
        assert not velocity.any()
        ends.append(("server", weights, mean))
        return (weights + mean) / 2, velocity

    record = dataclasses.replace(METHODS["fedavg"], name="half", weight=heavy, server_step=half)
    spire.register_method(record)
    words = [*TINY[:2], "federation.num_rounds=1", *TINY[3:], "federation.cohort_size=4"]
    spire.run("smoke", ["method=half", *words], is_quiet=True)
    *clients, (_, _, mean) = [one for one in ends if one[1].shape == ends[-1][1].shape][-5:]
    of = dict(clients)
    expected = (2.0**20 * of[0] + of[1] + of[2] + of[3]) / (2**20 + 3)
    np.testing.assert_allclose(mean, expected, rtol=1e-6, atol=1e-7)


MISTAKES = {
    "a number for each image": {"loss": lambda net, client_emb, batch: batch.output.mean()},
    "a client's weight in": {"weight": lambda update, broadcast: 0},
    "a whole number": {"weight": lambda update, broadcast: 0.5},
    "weights and velocity": {"server_step": lambda weights, mean, velocity: mean},
    "a network that returns": {"network": lambda *_: Flat()},
}


class Flat(torch.nn.Module):
    def forward(self, xt: torch.Tensor, t: torch.Tensor, client_emb: Any) -> torch.Tensor:
        return xt.flatten(1)


@pytest.mark.parametrize("told", MISTAKES)
def test_a_function_that_returns_something_else_ends_the_run(told: str) -> None:
    record = dataclasses.replace(METHODS["spire"], name="wrong", **MISTAKES[told])
    spire.register_method(record)
    with pytest.raises(ConfigError, match=told):
        spire.run("smoke", [*TINY, "method=wrong"], is_quiet=True)


def test_a_partition_that_deals_an_image_twice_is_refused() -> None:
    spire.register_partition("twice", lambda labels, config, num, rng: [range(40)] * num)
    with pytest.raises(ConfigError, match="without a common image"):
        spire.run("smoke", [*TINY, "partition=twice"], is_quiet=True)


def test_the_sweep_of_the_page_has_both_methods(tmp_path: Path) -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    _, _, _, (verb, name), _ = commands()
    (tmp_path / name).write_text(text)
    assert verb == "sweep"
    found = [trial.config.method.name for trial in trials(load_sweep(name))]
    assert found == ["spire", "both", "calm"]
