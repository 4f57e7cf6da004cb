"""The YAML file of a sweep, or one of ours by name, as settings."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pipeline.config.build import build, flattened, whole_keys
from pipeline.config.key_hints import WHOLE
from pipeline.config.load import read_settings, split_override
from pipeline.config.safe_yaml import MAX_SCALAR, first_comment, read_settings_file
from pipeline.config.schema import Config
from spire_core.errors import ConfigError
from sweeps.design.compared import check_compared
from sweeps.design.config import SweepConfig, canonical

KEYS = "docs/sweeps.md lists them"


def sweep_names() -> list[str]:
    """Return the names of the sweeps that ship with the package."""
    folder = resources.files("sweeps") / "conf"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name[-5:] == ".yaml")


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
    question, unless it has another. `settings:` and `axes:` may be empty. Raises ConfigError if
    anything is wrong.
    """
    if file in sweep_names():
        text, name = (resources.files("sweeps") / "conf" / f"{file}.yaml").read_text(), file
    else:
        known = f"a YAML file or one of {', '.join(sweep_names())} (docs/sweeps.md)"
        text, name = read_settings_file(file, known, sweep_names()), Path(file).stem
    settings = read_settings(text, file)
    settings = {k: v for k, v in settings.items() if v is not None or k not in ("settings", "axes")}
    _check_places(settings, file)
    if not settings and not words:
        raise ConfigError(
            f"expected a preset, settings or axes in {file}, got an empty file: docs/sweeps.md has "
            "examples"
        )
    values: dict[str, Any] = {"name": name, "question": _question(text)} | settings
    if isinstance(values.get("settings"), dict):
        values["settings"] = _flat(values["settings"], file)
    written = dict(values)
    groups = {f.name for f in dataclasses.fields(Config)}
    for word in words:
        key, value = split_override(word)
        root, _, rest = key.partition(".")
        if root in groups:
            root, rest = "settings", key
        inside = values.get(root)
        if rest and root == "settings" and isinstance(inside, dict | None):
            values[root] = _laid_over(flattened(inside or {}), flattened({rest: value}))
        elif rest and root == "axes" and isinstance(inside, dict | None):
            values[root] = {**(inside or {}), rest: value}
        else:
            values[key] = value
    sweep = build(SweepConfig, values, KEYS)
    as_written = _as_written(written) if words else None
    check_compared(sweep, as_written)
    return sweep, _recorded(sweep, as_written)


def _flat(settings: Mapping[str, Any], file: str) -> dict[str, Any]:
    """Return settings by their whole keys; ConfigError for one that is given twice."""
    seen = set[str]()
    for key, _ in whole_keys(settings):
        if twice := canonical([key]) & seen:
            raise ConfigError(
                f"expected one value for {twice.pop()} in the settings of {file}, got two: leave "
                "one out"
            )
        seen |= canonical([key])
    return flattened(settings)


def _laid_over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Return flat settings with those of the upper layer, under whichever name they have."""
    replaced = canonical(upper)
    kept = {k: v for k, v in lower.items() if k in upper or not canonical([k]) & replaced}
    return {**kept, **upper}


def _question(text: str) -> str:
    """Return the comment at the head of a file, cut to what a report's file may hold."""
    return textwrap.shorten(first_comment(text), MAX_SCALAR, placeholder=" ...")


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


def _check_places(values: Mapping[str, Any], file: str) -> None:
    """Raise ConfigError for a setting of trials that stands beside the keys of the sweep."""
    groups = {f.name for f in dataclasses.fields(Config)} - {"seed"}
    for key in values:
        if key.partition(".")[0] in groups or WHOLE.get(key, key) in groups:
            raise ConfigError(
                f"expected a sweep's own keys at the left of {file}, got {key!r}: write it below "
                "settings:, or with a list of values below axes:"
            )
