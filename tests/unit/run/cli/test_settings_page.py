"""docs/settings.md names every setting, with the default that it has."""

import re
from pathlib import Path
from typing import Any

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


def test_the_page_has_each_setting_once_with_its_default() -> None:
    keys = [key for key, _, _ in ROW.findall(PAGE.read_text())]
    assert sorted(keys) == sorted(true_defaults())
    groups = [group for group in load_config(None, []).as_dict() if group != "seed"]
    assert list(dict.fromkeys(key.partition(".")[0] for key in keys)) == groups
    assert {key: yaml.safe_load(default) for key, default in told().items()} == true_defaults()


def test_its_presets_and_rates_are_those_of_the_code() -> None:
    text = PAGE.read_text()
    [presets] = re.findall(r"^Presets: (.*)$", text, re.MULTILINE)
    assert sorted(re.findall(r"`([\w-]+)`", presets)) == preset_names()
    rate = r"([\d.]+) of `spire`, ([\d.]+) of `fedavg_ft`, ([\d.]+) of"
    for words, name in (("rate if null:", "adapt_lr"), ("noisy steps. null:", "private_lr")):
        [rates] = re.findall(f"{words} {rate}", text)
        methods = [METHODS[method] for method in ("spire", "fedavg_ft", "shared_rep")]
        assert [float(one) for one in rates] == [getattr(method, name) for method in methods]
