"""docs/settings.md names every setting, with the default that it has."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.load import flattened, load_config, preset_names
from spire_core.methods import METHODS

PAGE = Path(__file__).parents[4] / "docs" / "settings.md"
ROW = re.compile(r"^\| `([\w.]+)` \| (.*?) \| (.+) \|$", re.MULTILINE)


def told() -> dict[str, str]:
    return {key: default for key, default, _ in ROW.findall(PAGE.read_text())}


def true_defaults() -> dict[str, Any]:
    settings = flattened(load_config(None, []).as_dict())
    del settings["seed"]
    return {k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}


def test_the_page_has_each_setting_once_in_order() -> None:
    keys = [key for key, _, _ in ROW.findall(PAGE.read_text())]
    assert sorted(keys) == sorted(true_defaults())
    groups = [key.partition(".")[0] for key in keys]
    assert list(dict.fromkeys(groups)) == [
        g for g in load_config(None, []).as_dict() if g != "seed"
    ]


@pytest.mark.parametrize("key", sorted(true_defaults()))
def test_its_defaults_are_those_of_the_code(key: str) -> None:
    assert yaml.safe_load(told()[key]) == true_defaults()[key]


def test_its_presets_and_rates_are_those_of_the_code() -> None:
    text = PAGE.read_text()
    [presets] = re.findall(r"^Presets: (.*)$", text, re.MULTILINE)
    assert sorted(re.findall(r"`([\w-]+)`", presets)) == preset_names()
    [rates] = re.findall(
        r"rate if null: ([\d.]+) of `spire`, ([\d.]+) of `fedavg_ft`, ([\d.]+) of", text
    )
    expected = [METHODS[name].adapt_lr for name in ("spire", "fedavg_ft", "shared_rep")]
    assert [float(rate) for rate in rates] == expected
    assert METHODS["local"].adapt_lr == METHODS["shared_rep"].adapt_lr
    rate = r"([\d.]+) of `spire`, ([\d.]+) of `fedavg_ft`, ([\d.]+) of"
    [rates] = re.findall(rf"learning rate of noisy steps. null: {rate}", text)
    expected = [METHODS[name].private_lr for name in ("spire", "fedavg_ft", "shared_rep")]
    assert [float(rate) for rate in rates] == expected
    assert METHODS["local"].private_lr == METHODS["shared_rep"].private_lr
