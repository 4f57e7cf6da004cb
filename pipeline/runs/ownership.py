"""Whose a run is: this root's own, or foreign, so that its record decides nothing.

`<root>/begun/<run id>.json` is written when this root begins a run, or when its owner says that it
is theirs (`claim`). It holds the addresses that an own run sends to and reads from. It lies outside
`runs/`, so that nobody's copy of a run's folder brings or replaces it.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig, tracking_root
from pipeline.files.atomic import sync, write_whole
from pipeline.files.damage import DAMAGE, read_object
from pipeline.files.masking import mask
from pipeline.runs.record import read_record
from spire_core.errors import ConfigError, RunError

BEGUN = "begun"

READ = ("data.path", "eval.extractor_weights")  # settings that name files to be read

NAMED = ("tracking.storage", "data.root", *READ)  # settings whose value is a place

REMOTE = {"abfs", "abfss", "b2", "dbfs", "ftp", "gs", "hdfs", "http", "https", "mlflow-artifacts"}

REMOTE |= {"oss", "r2", "s3", "sftp", "viewfs", "wasb", "wasbs"}  # places of artifacts elsewhere

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Begun:
    """Where an own run sends to and reads from.

    `uri`: its store's, without any password; `artifacts`: the addresses that the store gave for its
    artifacts; `settings`: its values of `NAMED`.
    """

    uri: str = ""
    artifacts: Sequence[str] = ()
    settings: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def stored_uri(self) -> str | None:
        """The store's address, or None, the environment's, if it has a password or is not known."""
        return self.uri if self.uri and "***" not in self.uri else None


def _path(root: Path, run_id: str) -> Path:
    return root / BEGUN / f"{run_id}.json"


def note_begun(root: Path, run_id: str, begun: Begun) -> None:
    """Make a run one of this root's own, lastingly."""
    path = _path(root, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    told = asdict(replace(begun, uri=mask(begun.uri)))
    write_whole(path, (json.dumps(told, indent=1) + "\n").encode(), is_lasting=True)
    sync(path.parent)


def note_settings(run_dir: Path, config: Config) -> None:
    """Keep where a run that this root has just begun reads from and stores."""
    root = run_dir.parent.parent
    if (begun := _read(root, run_dir.name)) is not None:
        note_begun(root, run_dir.name, replace(begun, settings=places(config)))


def places(config: Config) -> dict[str, str | None]:
    """Return a configuration's values of `NAMED`."""
    groups: Any = config.as_dict()
    return {key: groups[key.split(".")[0]][key.split(".")[1]] for key in NAMED}


def with_places(config: Config, values: Mapping[str, str | None]) -> Config:
    """Return a configuration with other values of `NAMED`."""
    for key, value in values.items():
        group, name = key.split(".")
        config = replace(config, **{group: replace(getattr(config, group), **{name: value})})
    return config


def begun_here(run_dir: Path, root: Path) -> Begun | None:
    """Return what a root noted of its own run, or None of a foreign one."""
    return _read(root, run_dir.name) if is_at_home(run_dir, root) else None


def check_is_no_copy(run_dir: Path, root: Path) -> None:
    """Raise RunError for a copy, elsewhere, of a run that a root began: it has the same record."""
    run_id = read_record(run_dir)["run_id"]
    home = root / "runs" / run_id
    if not is_at_home(run_dir, root) and _read(root, Path(run_id).name) is not None:
        raise RunError(
            f"expected run {run_id} in {home}, since this root began it, got a copy in {run_dir}: "
            f"use {home}"
        )


def is_at_home(run_dir: Path, root: Path) -> bool:
    """Return whether a run's folder is where its id says, among the runs of a root."""
    home = root / "runs" / read_record(run_dir)["run_id"]
    return run_dir.resolve() == home.resolve()


def _read(root: Path, run_id: str) -> Begun | None:
    try:
        found = read_object(_path(root, run_id))
        begun = Begun(found["uri"], tuple(found["artifacts"]), dict(found["settings"]))
        texts = [
            begun.uri,
            *begun.artifacts,
            *(begun.settings[key] or "" for key in begun.settings),
        ]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("values that are no texts")
    except FileNotFoundError:
        return None
    except DAMAGE as error:
        _log.warning("damaged: %s: its run counts as foreign: %s", _path(root, run_id), error)
        return None
    return begun


def settled(
    config: Config, begun: Begun | None, words: Sequence[str], storage: str | None
) -> Config:
    """Return a stored configuration, in which `words` are merged, with the places that count.

    Those typed count first, then those noted of an own run. A foreign one's are left out, and its
    checkpoints go to `storage`. ConfigError if a foreign run would read a file that is not typed.
    """
    given = {key for key in NAMED if any(word.startswith(f"{key}=") for word in words)}
    there = places(config)
    if begun is not None:
        values = {key: begun.settings.get(key) for key in NAMED}
    else:
        values = dict.fromkeys(NAMED) | {"tracking.storage": storage}
        for key in READ:
            if there[key] and key not in given:
                raise ConfigError(
                    f"expected {key}={there[key]} on the command line, since this root did not "
                    "begin the run that would read it, got nothing: add it if those files are "
                    "meant, or --mine if the run is yours"
                )
    return with_places(config, {key: values[key] for key in NAMED if key not in given})


def refuse_links(folder: Path, is_own: bool = False) -> None:
    """Raise RunError if anything in a run's folder is a link.

    Of an own run the files of single clients, which are read and replaced alone, are not looked at.
    """
    for path in _links(folder, folder / "clients" if is_own else None):
        raise RunError(
            f"expected files and folders alone in a run's folder, got the link {path}: delete it, "
            "or put there what it leads to"
        )


def _links(folder: Path, shallow: Path | None) -> Iterator[Path]:
    left = [folder]
    while left:
        here = left.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        yield Path(entry.path)
                    elif here != shallow and entry.is_dir(follow_symlinks=False):
                        left.append(Path(entry.path))
        except (FileNotFoundError, NotADirectoryError):  # dropped meanwhile by a run that goes on
            continue


def name_address(run_dir: Path, what: str, address: str) -> None:
    """Say, before it is used, where something of a foreign run goes or comes from."""
    _log.warning("run %r was not begun here: %s %r", run_dir.name, what, mask(address))


def check_artifacts(address: str, begun: Begun | None, root: Path) -> None:
    """Raise RunError if a run's artifacts would go to a folder that is not for this root's."""
    if begun is not None and address in begun.artifacts:
        return
    parts, home = urlsplit(address), (root / "artifacts").resolve()
    if parts.scheme in REMOTE:
        return
    is_local = parts.scheme in ("", "file") and parts.netloc in ("", "localhost")
    if is_local and Path(unquote(parts.path)).resolve().is_relative_to(home):
        return
    raise RunError(
        f"expected the run's artifacts below {home}, or on a server, got {mask(address)!r} from "
        "its store: set tracking.enabled=false, or, if that place and the run are yours, add both "
        "tracking.uri=URI and --mine"
    )


def check_addresses(
    addresses: Sequence[str], begun: Begun | None, run_dir: Path, root: Path
) -> None:
    """Raise RunError if a run's artifacts may not go to where its store says.

    Of a foreign run each address is named.
    """
    check_is_no_copy(run_dir, root)
    for address in addresses:
        if begun is None:
            name_address(run_dir, "its artifacts go to", address)
        check_artifacts(address, begun, root)


def is_named(config: TrackingConfig) -> bool:
    """Return whether the user, and not a run, has said which store is meant."""
    return config.uri is not None or bool(os.environ.get("MLFLOW_TRACKING_URI"))


def check_is_at_home(run_dir: Path, config: TrackingConfig) -> Path:
    """Return the root; RunError unless a run's folder is among its runs."""
    root = tracking_root(config)
    if not is_at_home(run_dir, root):
        raise RunError(
            f"expected a run's folder in {root / 'runs'}, under its id, with --mine, got "
            f"{run_dir}: name its root with tracking.root=FOLDER, or copy it there"
        )
    return root
