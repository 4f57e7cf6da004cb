"""The YAML file of a sweep, or one of ours by name, as settings."""

import dataclasses
from collections.abc import Mapping, Sequence
from importlib import resources
from itertools import takewhile
from pathlib import Path
from typing import Any

from pipeline.config.load import build, flattened, read_yaml, split_word
from pipeline.config.schema import Config
from spire_core.config.checks import require
from spire_core.errors import ConfigError
from sweeps.design.compared import check_compared
from sweeps.design.config import SweepConfig, canonical

KEYS = "docs/sweeps.md lists all"
CONF = resources.files("sweeps") / "conf"


def sweep_names() -> list[str]:
    """Return the names of the sweeps that ship with the package."""
    return sorted(p.name.removesuffix(".yaml") for p in CONF.iterdir() if p.name.endswith(".yaml"))


def load_sweep(file: str, words: Sequence[str] = ()) -> SweepConfig:
    """Return a sweep's settings from a file, or from one of ours by name, as `load_study`."""
    sweep, _ = load_study(file, words)
    return sweep


def load_study(file: str, words: Sequence[str] = ()) -> tuple[SweepConfig, SweepConfig]:
    """Return a sweep's settings from a file, or from one of ours by name, with overrides.

    With them is the sweep that is recorded: a study's with the seeds and axes of its file, of which
    a command may run a part.

    A word `key=value` sets a key of the sweep (`seeds=[0,1]`) or, for every trial, one of the
    configuration (`federation.num_rounds=10`). The comment with which a file begins is its
    question, unless it has another. ConfigError if anything is wrong.
    """
    path: Any = CONF / f"{file}.yaml" if file in sweep_names() else Path(file).expanduser()
    known = f"a YAML file or one of {', '.join(sweep_names())}"
    values = {"name": Path(file).stem, "question": "", **read_yaml(path, known, sweep_names())}
    values["question"] = values["question"] or _first_comment(path.read_text(encoding="utf-8"))
    values |= {key: {} for key in ("settings", "axes") if values.get(key) is None}
    values["settings"] = flattened(values["settings"])
    written, groups = dict(values), {field.name for field in dataclasses.fields(Config)} - {"seed"}
    for key in values:
        is_own = key.partition(".")[0] not in groups
        require(is_own, f"a sweep's own keys at the left of {file}", key, "write it below settings")
    for word in words:
        key, value = split_word(word)
        root, _, rest = key.partition(".")
        if root in (*groups, "seed"):
            root, rest = "settings", key
        if rest and root == "settings":
            values[root] = _laid_over(values[root], flattened({rest: value}))
        elif rest and root == "axes":
            values[root] = {**values[root], rest: value}
        else:
            values[key] = value
    sweep = build(SweepConfig, values, KEYS)
    as_written = _as_written(written) if words else None
    check_compared(sweep, as_written)
    return sweep, _recorded(sweep, as_written)


def _laid_over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Return flat settings with those of the upper layer, under whichever name they have."""
    replaced = canonical(upper)
    kept = {k: v for k, v in lower.items() if k in upper or not canonical([k]) & replaced}
    return {**kept, **upper}


def _first_comment(text: str) -> str:
    """Return the comment at the head of a YAML file as one line, without its marks."""
    lines = takewhile(lambda line: line.startswith("#"), text.lstrip().splitlines())
    return " ".join(" ".join(line.strip("#") for line in lines).split())


def _as_written(values: dict[str, Any]) -> SweepConfig | None:
    """Return a sweep without the words of a command; None if it is whole only with them."""
    try:
        return build(SweepConfig, values, KEYS)
    except ConfigError:
        return None


def _recorded(sweep: SweepConfig, written: SweepConfig | None) -> SweepConfig:
    """Return a study with the seeds and axes of its file, if it is the same sweep with them."""
    if written is None or not sweep.primary:
        return sweep
    try:
        whole = dataclasses.replace(sweep, seeds=written.seeds, axes=written.axes)
    except ConfigError:  # a setting of the command is on an axis of the file
        return sweep
    return whole if whole.key == sweep.key else sweep
