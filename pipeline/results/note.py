"""A run's description in MLflow's UI: its setting, results, diagnosis and command, in Markdown."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from pipeline.config.load import flattened, load_config, preset_names, split_word, write_value
from pipeline.config.meaning import without_effect
from pipeline.config.schema import Config
from pipeline.results.result import Result
from pipeline.tracking.mlflow_queries import NOTE_CHARS

BASE = "mnist-cpu"  # of a run whose preset is not known
CUT = " ... (config/resolved.yaml has all of it) ... "  # instead of a long command's middle
LOCAL = ("tracking.", "resources.", "data.root")  # make no difference to the result
SCORES = {
    "KID of pre-training clients": ("final/pretrain_kid_mean",),
    "KID of new clients, before and after adaptation": (
        "final/adapt_kid_before",
        "final/adapt_kid_after",
    ),
}


def setting_note(config: Config, preset: str | None) -> str:
    """Return the description of a run that has begun."""
    return _note(config, preset)


def result_note(result: Result, preset: str | None) -> str:
    """Return the description of a finished run."""
    scores = "\n".join(f"- {line}" for line in _scores(result.metrics))
    names = ", ".join(f"{d.name} (try {d.advice})" for d in result.diagnoses)
    diagnosis = f"- diagnosis: {names or 'no known failure recognised'}"
    promise = result.adaptation.privacy_sentence
    found = "\n".join([scores, *([f"- {promise}"] if promise else []), diagnosis])
    return _note(result.setting.config, preset, f"\n\n{found}".rstrip())


def _note(config: Config, preset: str | None, found: str = "") -> str:
    """Return a description that MLflow takes whole; a long command loses its middle."""
    federation, command = config.federation, run_command(config, preset)
    title = f"**{config.method.name}** on {config.data.name}, seed {config.seed}"
    size = f"{federation.num_clients} clients and {federation.num_new_clients} new ones"
    text = f"{title}: {size}, {federation.num_rounds} rounds."
    room = NOTE_CHARS - len(f"{text}\n\n```\n\n```{found}")
    if len(command) > room:
        half = (room - len(CUT)) // 2
        command = f"{command[:half]}{CUT}{command[-half:]}"
    return f"{text}\n\n```\n{command}\n```{found}"


def run_command(config: Config, preset: str | None) -> str:
    """Return a command that runs this configuration again, apart from where and how fast.

    A given noise key, of which a configuration has but the label, is left out: noise is then fresh.
    So is what another setting switches off, as in sweeps.
    """
    preset = preset if preset in preset_names() else BASE
    base, own = (flattened(c.as_dict()) for c in (load_config(preset), config))
    changed = {
        key: value
        for key, value in own.items()
        if value != base[key] and not key.startswith((*LOCAL, "privacy.noise_key"))
    }
    words = {key: f"{key}={_word(value)}" for key, value in changed.items()}
    for key in without_effect(config, [*words.values()]):
        del words[key]
    return shlex.join(["spire", "run", preset, *words.values()])


def _scores(metrics: Mapping[str, float]) -> list[str]:
    return [
        f"{text}: {' -> '.join(f'{metrics[key]:.4g}' for key in keys)}"
        for text, keys in SCORES.items()
        if all(key in metrics for key in keys)
    ]


def _word(value: Any) -> str:
    """Return a value as a word has it: a text that YAML reads as it is without quotes."""
    is_word = isinstance(value, str) and re.fullmatch(r"[\w./-]+", value) is not None
    return value if is_word and split_word(f"key={value}")[1] == value else write_value(value)
