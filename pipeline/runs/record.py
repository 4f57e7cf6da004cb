"""The record of a run, `run.json` in its folder, by which it is found and resumed.

It holds id, name, kind, start and the address of the tracking store, from the run's beginning on,
and then preset, configuration and the hashes of its data. Beside it lie the lock of the process
that works on the run, and the run's result.
"""

import contextlib
import itertools
import json
import logging
import random
import re
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from pipeline.config.load import config_from_dict, flattened, overridden, read_words
from pipeline.config.meaning import NUMBERS, say_without_effect, without_effect
from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig, tracking_root
from pipeline.files.atomic import FORMAT, FORMAT_KEY, read_object, reading, write_json
from pipeline.files.paths import lasting, mask
from pipeline.runs.layout import LOCK, RECORD, RESULT, RUNS
from spire_core.errors import BusyError, ConfigError, FormatError, RunError

Kind = Literal["run", "sweep", "theory"]
PATHS = (("data", "root"), ("data", "path"), ("eval", "extractor_weights"))
PATHS += (("model", "backbone"), ("model", "text_encoder"))
FIRST_WORDS = "amber bold brave bright calm clever copper crisp eager early fair fond gentle glad "
FIRST_WORDS += "golden happy honest jolly keen kind light lively lucky merry mild neat noble proud "
FIRST_WORDS += "patient quick quiet rapid ready silver steady sunny swift tidy warm wise"
LAST_WORDS = "badger beaver bison crane curlew deer dolphin eagle falcon ferret finch fox gecko "
LAST_WORDS += "heron ibex jay kestrel koala lark lemur linnet lynx moose newt otter owl "
LAST_WORDS += "puffin quail raven seal stoat stork swan tern tiger trout vole walrus wolf wren"
_log = logging.getLogger(__name__)


# --- the record ---


def new_name(config: TrackingConfig) -> str:
    """Return the run's name of the settings, or one that people can say, such as brave-otter.

    Of these, one that is free under the root, unless that holds very many runs.
    """
    name, runs = config.run_name, tracking_root(config) / RUNS
    for _ in range(100) if name is None else ():
        words = (random.SystemRandom().choice(w.split()) for w in (FIRST_WORDS, LAST_WORDS))
        if not (runs / (name := "-".join(words))).exists():
            break
    return str(name)


def _new_folder(runs: Path, name: str) -> Path:
    """Create a folder with a run's name, or with that and a number where it is taken."""
    plain = re.sub(r"[^\w.-]+", "-", name).strip(".-")[:80] or "run"
    folder = runs / plain
    for n in itertools.count(2):
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            folder = runs / f"{plain}-{n}"
    return folder


def make_run_dir(
    config: TrackingConfig,
    run_id: str,
    run_name: str,
    uri: str | None,
    kind: Kind = "run",
    experiment_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    is_named: bool = False,
) -> Path:
    """Create a run's folder and, durably, its record, and return the folder.

    `tags`: those with which its store created it. `is_named`: the folder has the run's name, and
    not its id.
    """
    run_dir = tracking_root(config) / RUNS / run_id
    if is_named:
        run_dir = _new_folder(run_dir.parent, run_name)
    run_dir.mkdir(parents=True, exist_ok=True)
    record = {
        FORMAT_KEY: FORMAT,
        "run_id": run_id,
        "run_name": run_name,
        "started_ms": time.time_ns() // 1_000_000,
        "kind": kind,
        "experiment": config.experiment,
        "experiment_id": experiment_id,
        "tracked": uri is not None,
        "uri": mask(uri or ""),
        "tags": dict(tags or {}),
    }
    write_json(run_dir / RECORD, record)
    return run_dir


def read_record(run_dir: Path) -> dict[str, Any]:
    """Return the record of a run; RunError if it is damaged, FormatError if of another format."""
    path = run_dir / RECORD
    with reading("a run's record", path, "put back a copy of it, or start a new run"):
        return read_object(path)


def update_record(run_dir: Path, **values: Any) -> None:
    """Add values to the record of a run, or replace them, durably; the caller has its lock."""
    write_json(run_dir / RECORD, {**read_record(run_dir), **values})


def experiment_of(run_dir: Path | None) -> str | None:
    """Return the id of a run's experiment in its store, or None if there is none."""
    return None if run_dir is None else read_record(run_dir)["experiment_id"]


def run_folders(config: TrackingConfig) -> list[Path]:
    """Return the folders of all runs and sweeps under the root, oldest first."""
    return [record["folder"] for record in _records(tracking_root(config) / RUNS)]


def _records(runs: Path) -> list[dict[str, Any]]:
    """Return the records of all runs of a folder, oldest first."""
    records = []
    for path in runs.glob(f"*/{RECORD}"):
        try:
            records.append(read_record(path.parent) | {"folder": path.parent})
        except (RunError, FormatError) as error:  # one damaged record must not hide the others
            _log.warning("a run is passed over: %s", error)
    return sorted(records, key=lambda record: record["started_ms"])


def find_run(
    run: str, config: TrackingConfig, kinds: Sequence[Kind] = ("run",), is_finished: bool = False
) -> Path:
    """Return the folder of the run that a word names.

    The word is `last` (the newest run), a run's name, an id or the beginning of one, or the path of
    a run's folder. A name counts before an id, and both before a path. With `is_finished`, runs
    that have not ended are passed over where others fit as well. RunError if the word names no run,
    or several.
    """
    runs = tracking_root(config) / RUNS
    records = [record for record in _records(runs) if record["kind"] in kinds]
    fits = [r for r in records if run in ("last", r["run_name"], r["folder"].name)]
    if is_finished:
        fits = [record for record in fits if _has_result(record)] or fits
    if run and not fits:
        fits = [
            r for r in records if any(s.startswith(run) for s in (r["folder"].name, r["run_id"]))
        ]
    if len(fits) == 1 or (fits and run == "last"):
        return fits[-1]["folder"]
    folder = Path(run).expanduser()
    if not fits and (folder / RECORD).is_file():
        return folder.resolve()
    what = f"which fits {len(fits)} of them" if fits else f"which is none of those in {runs}"
    known = ", ".join(_told(record) for record in (fits or records)[-8:])
    raise RunError(
        f"expected a run's id, name or folder, or last, got {run!r:.200}, {what}: "
        f"choose from {known or 'a folder that holds runs, with tracking.root=FOLDER'}"
    )


def _has_result(record: dict[str, Any]) -> bool:
    return (record["folder"] / RESULT).is_file()


def _told(record: dict[str, Any]) -> str:
    """Return a run's id and name, and what tells it from others of that name."""
    status = "finished" if _has_result(record) else "not finished"
    status = status if record["kind"] == "run" else record["kind"]  # others have no result
    began = datetime.fromtimestamp(record["started_ms"] / 1000, UTC)
    names = dict.fromkeys((record["folder"].name, record["run_name"]))
    told = [*(name for name in names if name != record["run_id"]), status]
    return f"{record['run_id'][:8]} ({', '.join(told)}, {began:%Y-%m-%d %H:%M} UTC)"


# --- its start: preset, configuration, hashes of its data ---


def storable(config: Config) -> dict[str, Any]:
    """Return a configuration without secrets: no `tracking.uri`, and `tracking.storage` masked."""
    storage = config.tracking.storage
    shown = None if storage is None else mask(storage)
    return replace(config, tracking=replace(config.tracking, uri=None, storage=shown)).as_dict()


def save_start(
    run_dir: Path, config: Config, preset: str | None, hashes: Mapping[str, str]
) -> None:
    """Add what `load_start` and `check_same` read to a run's record."""
    began = {"version of the numbers": NUMBERS, **hashes}
    update_record(run_dir, preset=preset, config=storable(config), hashes=began)


def has_begun(run_dir: Path) -> bool:
    """Return whether a run has a start: without one it has read no data."""
    return (run_dir / RECORD).is_file() and "config" in read_record(run_dir)


def check_same(run_dir: Path, hashes: Mapping[str, str]) -> None:
    """Raise RunError if a run began with another version of the numbers or with other hashes.

    `hashes`: of data, partition, extractor and pre-trained model (`FederationSetup.hashes`), or of
    some of them.
    """
    if not has_begun(run_dir):
        return
    began, here = read_record(run_dir)["hashes"], {"version of the numbers": NUMBERS, **hashes}
    if wrong := [name for name, value in here.items() if began[name] != value]:
        raise RunError(
            f"expected the code, images and weights with which the run in {run_dir} began, got "
            f"others (by their {wrong[0]}): put them back, or start a new run"
        )


def located(config: Config, folder: str = "") -> Config:
    """Return a configuration with absolute paths; None, the default of each machine, stays.

    `folder`: where relative paths start, if not here. ConfigError for a path that is relative to
    the temporary folder of a Ray job.
    """
    for group, name in PATHS:
        settings = getattr(config, group)
        if (path := getattr(settings, name)) is not None:
            path = str(lasting(Path(folder, Path(path).expanduser()), f"{group}.{name}"))
            config = replace(config, **{group: replace(settings, **{name: path})})
    return config


def load_start(
    run_dir: Path, given: TrackingConfig | None = None, overrides: Sequence[str] = ()
) -> tuple[Config, str | None]:
    """Return a run's configuration, with overrides, and its preset.

    `given`: the user's settings, which say where it is tracked; None stands for the root of the
    folder. RunError if the folder has no intact start; ConfigError for a missing package.
    """
    given, record = given or TrackingConfig(root=str(run_dir.parent.parent)), read_record(run_dir)
    with reading("a run's configuration", run_dir / RECORD, "start a new run"):
        began, preset = config_from_dict(record["config"]), record["preset"]
    config = overridden(began, overrides)
    tracking = replace(config.tracking, uri=given.uri, root=str(tracking_root(given)))
    return replace(located(config), tracking=tracking), preset


def load_resumed(
    run_dir: Path, given: TrackingConfig, overrides: Sequence[str]
) -> tuple[Config, str | None]:
    """Return what `load_start` does, of a run that goes on with overrides that all count.

    Its checkpoints go to `given.storage`. RunError if they went to another one that the user has
    not typed. ConfigError as `load_start` says, and for a store of a run that began without one:
    MLflow would have none of its record so far.
    """
    config, preset = load_start(run_dir, given, overrides)
    if config.tracking.enabled and not read_record(run_dir)["tracked"]:
        raise ConfigError(
            f"expected tracking.enabled=false, with which the run in {run_dir} began, got true: "
            "leave it as it is, or start a new run"
        )
    say_without_effect(without_effect(config, overrides))
    if "tracking.storage" in flattened(read_words(overrides)):
        return config, preset
    if config.tracking.storage is not None and given.storage is None:
        word = shlex.quote(f"tracking.storage={config.tracking.storage}")
        raise RunError(
            f"expected the storage of the checkpoints of the run in {run_dir}, got none: add "
            f"{word} to go on there, or tracking.storage=null to keep them on this machine alone"
        )
    return replace(config, tracking=replace(config.tracking, storage=given.storage)), preset


# --- its lock and its result ---


@contextlib.contextmanager
def run_lock(run_dir: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Lock a run until the end of a block; the lock also ends with the process.

    BusyError if, after `wait_s` still, another process or another block of this one has locked it.
    """
    try:
        held = FileLock(run_dir / LOCK).acquire(timeout=wait_s)
    except Timeout:
        raise BusyError(
            f"expected nobody at work on the run in {run_dir}, got another process: wait until it "
            f"ends, or end it (`fuser {run_dir / LOCK}` names it)"
        ) from None
    with held:
        yield


def load_result(run_dir: Path) -> dict[str, Any] | None:
    """Return the object that a finished run printed, or None if it has not finished."""
    if not (run_dir / RESULT).is_file():
        return None
    result = json.loads((run_dir / RESULT).read_text())
    return result | {"run_id": read_record(run_dir)["run_id"], "name": run_dir.name}
