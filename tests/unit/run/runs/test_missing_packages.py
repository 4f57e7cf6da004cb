"""A run on disk whose method, data set or metric is of a package that is not installed."""

import json
from pathlib import Path

import pytest

from pipeline.config.load import load_config
from pipeline.config.plugins import ALL_PLUGINS
from pipeline.config.tracking import TrackingConfig
from pipeline.inference.saved_run import SavedRun
from pipeline.runs.record import load_start, make_run_dir, save_start
from pipeline.tracking.mlflow_model import MODEL_NEEDS, needs_of
from spire_core.errors import SpireError


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("method=calm data=bars", "bars"),
        ("data=bars", "bars"),
        ("eval.metrics=[contrast_gap]", "contrast_gap"),
    ],
)
def test_a_stored_run_needs_the_package_of_each_object_that_it_names(
    words: str, named: str, outside: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = TrackingConfig(root=str(tmp_path))
    run_dir = make_run_dir(tracking, "0" * 32, "n", None)

    def forget() -> None:
        for plugins in ALL_PLUGINS:  # as in a new process
            monkeypatch.setattr(plugins, "_found", {})

    forget()
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(outside))
        config = load_config("smoke", words.split())
        save_start(run_dir, config, "smoke", {})
        (run_dir / "config.json").write_text(json.dumps({"config": config.as_dict()}))
        assert _names(needs_of(config.as_dict())) == [*MODEL_NEEDS, "spire-outside"]
    forget()
    assert _names(needs_of(config.as_dict())) == [*MODEL_NEEDS]
    for load in (SavedRun.load, load_start):
        with pytest.raises(SpireError) as raised:
            load(run_dir)
        assert f"got {named!r}" in str(raised.value)


def _names(needs: list[str]) -> list[str]:
    return [need.partition("==")[0] for need in needs]
