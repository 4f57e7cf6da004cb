"""The description of a run in MLflow's UI."""

import shlex
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config.load import load_config
from pipeline.config.schema import Config
from pipeline.results.note import CUT, result_note, run_command, setting_note
from pipeline.tracking.mlflow_queries import NOTE_CHARS

METADATA = "data.metadata=table.csv"
CHANGES = (
    [],
    ["method=fedavg_ft", "adapt.lr=1e-4", "federation.local_epochs=2", "seed=7"],
    ["data=folder", "data.path='/my photos/1e3'", "data.image_size=32", "eval.every=0"],
    ["data.path='null'", "adapt.early_stopping=true"],
    ["data=folder", "data.path='/d/a: b: c'", "data.image_size=32", "data.clients='@id'", METADATA],
    [
        "data=folder",
        "data.path='/tmp/𠮷 😀'",
        "data.image_size=32",
        "data.captions='*text'",
        METADATA,
    ],
)


def lasting(config: Config) -> Config:
    return replace(config, tracking=Config().tracking, resources=Config().resources)


@pytest.mark.parametrize("changes", CHANGES)
@pytest.mark.parametrize("preset", ["smoke", "fashion-cpu", None])
def test_the_command_runs_the_same_configuration(preset: str | None, changes: list[str]) -> None:
    local = ["tracking.root=/elsewhere", "resources.num_actors=2"]
    config = load_config(preset or "mnist-cpu", [*changes, *local])
    spire, run, named, *words = shlex.split(run_command(config, preset))
    assert (spire, run, named) == ("spire", "run", preset or "mnist-cpu")
    assert lasting(load_config(named, words)) == lasting(config)


def test_the_label_of_a_noise_key_is_left_out() -> None:
    config = load_config("smoke", ["privacy.adapt.epsilon=4", f"privacy.noise_key={'ab' * 32}"])
    private = replace(config, privacy=config.privacy.labelled())
    assert run_command(private, "smoke") == "spire run smoke privacy.adapt.epsilon=4.0"


def test_what_another_setting_switches_off_is_left_out() -> None:
    config = load_config("smoke", ["client.engine=loop", "client.group_size=8", "client.lr=0.5"])
    assert run_command(config, "smoke") == "spire run smoke client.lr=0.5 client.engine=loop"


def test_a_run_that_has_begun_is_described() -> None:
    text = setting_note(load_config("smoke", ["method=local", "seed=3"]), "smoke")
    assert text.startswith("**local** on mnist, seed 3: ")
    assert "spire run smoke seed=3 method.name=local\n" in text


def test_a_long_command_leaves_room_for_the_scores() -> None:
    words = ",".join(f"word{i}" for i in range(9000))
    changes = ["model.text=words", f"model.words=[{words}]", "client.lr=0.5"]
    config = load_config("fonts-cpu", changes)
    assert len(run_command(config, "fonts-cpu")) > 8000
    adaptation = SimpleNamespace(privacy_sentence="a promise")
    result: Any = SimpleNamespace(
        setting=SimpleNamespace(config=config),
        metrics={"final/pretrain_kid_mean": 0.25},
        diagnoses=[],
        adaptation=adaptation,
    )
    begun, ended = setting_note(config, "fonts-cpu"), result_note(result, "fonts-cpu")
    for text in (begun, ended):
        assert NOTE_CHARS - 2 < len(text) <= NOTE_CHARS
        _, block, found = text.split("```")
        assert block.startswith("\nspire run fonts-cpu ")
        assert CUT in block
        assert block.endswith(" client.lr=0.5\n")
    assert found.strip().splitlines() == [
        "- KID of pre-training clients: 0.25",
        "- a promise",
        "- diagnosis: no known failure recognised",
    ]
