"""How a run began, in its folder: `config.json`, from which it goes on after a crash."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.config import overridden
from pipeline.reading import read_object, reading
from pipeline.run_files import START, storable, write_json
from pipeline.runs import stored_uri
from pipeline.schema import Config
from pipeline.typed import config_from_dict


def save_start(run_dir: Path, config: Config, preset: str | None) -> None:
    """Write what `load_start` needs to go on with a run."""
    write_json(run_dir / START, {"preset": preset, "config": storable(config)})


def load_start(
    run_dir: Path, uri: str | None = None, overrides: Sequence[str] = ()
) -> tuple[Config, str | None]:
    """Return a run's configuration, with overrides, and its preset.

    It is tracked where it was, unless `uri` is given. RunError if the folder does not say how the
    run began.
    """
    with reading("a run's configuration", run_dir / START, "start a new run"):
        stored = read_object(run_dir / START)
        config, preset = config_from_dict(stored["config"]), stored["preset"]
        uri = uri or stored_uri(run_dir)
    config = overridden(config, overrides)
    root = str(run_dir.parent.parent)
    tracking = replace(config.tracking, uri=uri, root=root)
    return replace(config, tracking=tracking), preset
