"""The functions of `spire`: docs/python.md runs as printed, and mistakes are one sentence."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import rand

import spire
from pipeline.cli.words import words_of
from pipeline.config.load import load_config, preset_names
from pipeline.config.meaning import load_typed
from pipeline.federation.setup import prepare
from spire_core.errors import ConfigError, RunError
from sweeps.design.config import load_sweep

PAGE = Path(__file__).parents[3] / "docs" / "python.md"


def test_the_page_runs_as_printed(
    tmp_path: Path, mnist_root: Path, new_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(new_database, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPIRE_DATA", str(mnist_root))
    monkeypatch.setenv("SPIRE_ROOT", str(tmp_path))
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["arrival"].num_trained == names["run"].config.model.d_emb
    result, local = names["result"], {"resources.pool": "local"}
    for run_dir in (result.run_dir, Path(result.run_dir)):
        assert spire.load(run_dir).client_ids == names["run"].client_ids
        with pytest.raises(RunError, match=rf'has finished: spire.load\("{result.run_dir.name}"\)'):
            spire.resume(run_dir, local)
    (Path(result.run_dir) / "result.json").unlink()  # as if it had been stopped before its end
    elsewhere = {"data.root": str(mnist_root)}
    again = spire.resume(result.run_dir, local | elsewhere, is_quiet=True)
    assert again.state_fingerprint == result.state_fingerprint
    for preset in preset_names():
        if preset not in ("fonts-cpu", "retrofit-cpu"):  # as the page says
            partition = prepare(load_typed(preset, words_of(names["own"]))).partition
            assert len(partition.train_clients) == 5


def test_what_is_missing_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPIRE_ROOT", str(tmp_path))
    with pytest.raises(RunError, match="expected a run's id, name or folder"):
        spire.load("nobody")
    with pytest.raises(ConfigError, match=r"client\.lrr"):
        spire.run("smoke", {"client": {"lrr": 0.1}})
    with pytest.raises(ConfigError, match="expected a preset"):
        spire.run({"client.lr": 0.1})  # type: ignore[arg-type]
    for refuse in (spire.load, spire.resume, spire.report):
        with pytest.raises(ConfigError, match=r"expected settings of .*tracking"):
            refuse("last", {"client.lr": 0.1})


def test_settings_have_any_text_and_the_numbers_of_numpy() -> None:
    values = {"client": {"batch_size": np.int64(4)}, "adapt.guidance": np.array([1.5, 0.25])}
    values |= {"client.lr": np.float32(0.5), "adapt.early_stopping": np.bool_(True)}
    values |= {"tracking.run_name": "exp 😀", "data.path": Path("/tmp/𠮷")}
    config = load_config("smoke", words_of(values))
    assert (config.client.batch_size, config.adapt.guidance) == (4, (1.5, 0.25))
    assert (config.client.lr, config.adapt.early_stopping) == (0.5, True)
    assert (config.tracking.run_name, config.data.path) == ("exp 😀", "/tmp/𠮷")
    axes = {"axes": {"client": {"lr": rand(2)}}, "seeds": range(3)}
    sweep = load_sweep("smoke", words_of(axes))
    assert (sweep.seeds, len(sweep.axes["client.lr"])) == ((0, 1, 2), 2)
    log_range = {"min": 1e-3, "max": 1.0, "log": True}
    drawn = {"search": "random", "num_trials": 3, "axes": {"adapt": {"lr": log_range}}}
    assert load_sweep("smoke", words_of(drawn)).axes["adapt.lr"] == log_range
    assert words_of(["client.lr=1"]) == words_of({"client": {"lr": 1}}) == ["client.lr=1"]
    assert words_of(None) == []
