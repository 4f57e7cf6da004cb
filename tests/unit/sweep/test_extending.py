"""docs/extending.md: its package, installed, gives a method, a term, data and a metric by name."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import spire
from pipeline.config.load import load_config
from pipeline.config.plugins import ALL_PLUGINS
from pipeline.federation.setup import prepare
from pipeline.results.recording import run_tags
from spire_core.errors import ConfigError
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
    both, calm, _, backbone = commands()
    exec(compile((outside / "make_backbone.py").read_text(), str(PAGE), "exec"), {})
    result = typed(both, capsys)
    assert result["params_trainable_new_client"] > 16  # the embedding and layers
    result = typed(calm, capsys)
    assert {"final/adapt_contrast_gap_before", "final/adapt_contrast_gap_after"} <= {
        *result["metrics"]
    }
    tags = run_tags(prepare(load_config("smoke", calm[2:])), "smoke")
    assert tags["plugin.method.calm"] == tags["plugin.dataset.bars"] == "spire-outside 1.2"
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


def test_the_sweep_of_the_page_has_both_methods(tmp_path: Path) -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    _, _, (verb, name), _ = commands()
    (tmp_path / name).write_text(text)
    assert verb == "sweep"
    found = [trial.config.method.name for trial in trials(load_sweep(name))]
    assert found == ["spire", "both", "calm"]
