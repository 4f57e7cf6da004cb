"""The ownership of runs: a root trusts the addresses of its own runs, not those of foreign ones.

`<root>/begun/<run id>.json` is written when this root begins a run, or when its owner claims it
(`claim`). It holds the addresses that an own run sends to and reads from. It lies outside `runs/`,
so that a copy of a run's folder neither brings nor replaces it.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from pipeline.config.schema import Config
from pipeline.config.tracking import TrackingConfig, tracking_root
from pipeline.files.atomic import sync, write_whole
from pipeline.files.damage import DAMAGE, read_object
from pipeline.files.masking import HIDDEN, mask
from pipeline.runs.links import refuse_links
from pipeline.runs.record import read_record
from spire_core.errors import ConfigError, RunError

BEGUN = "begun"
# Settings that name files to be read.
READ = ("data.path", "eval.extractor_weights", "model.backbone", "model.text_encoder")
NAMED = ("tracking.storage", "data.root", *READ)  # settings whose value is a place
REMOTE = {"abfs", "abfss", "b2", "dbfs", "ftp", "gs", "hdfs", "http", "https", "mlflow-artifacts"}
REMOTE |= {"oss", "r2", "s3", "sftp", "viewfs", "wasb", "wasbs"}  # places of artifacts elsewhere
_AZURE = "AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
CREDENTIALS = {"abfs": _AZURE, "abfss": _AZURE, "gs": "GOOGLE_APPLICATION_CREDENTIALS"}
CREDENTIALS |= {"gcs": CREDENTIALS["gs"], "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Begun:
    """The addresses that an own run sends to and reads from.

    `uri`: the store's; `artifacts`: those that the store gave for the run's artifacts; `settings`:
    the run's values of `NAMED`. Their secrets are masked in the note.
    """

    uri: str = ""
    artifacts: Sequence[str] = ()
    settings: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def stored_uri(self) -> str | None:
        """The store's address; None, for the environment's, if it is unknown or had a password."""
        return self.uri if self.uri and HIDDEN not in self.uri else None


def _path(root: Path, run_id: str) -> Path:
    return root / BEGUN / f"{run_id}.json"


def note_begun(root: Path, run_id: str, begun: Begun) -> None:
    """Record a run as one of this root's own, durably."""
    path = _path(root, run_id)
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = dict(begun.settings)
    if storage := settings.get("tracking.storage"):
        settings["tracking.storage"] = mask(storage)
    values = {"uri": mask(begun.uri), "artifacts": [mask(address) for address in begun.artifacts]}
    values |= {"settings": settings}
    write_whole(path, (json.dumps(values, indent=1) + "\n").encode(), is_lasting=True)
    sync(path.parent)


def note_settings(run_dir: Path, config: Config) -> None:
    """Record the places of a run that this root has just begun."""
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
    """Return a root's note of its own run, or None for a foreign run."""
    return _read(root, run_dir.name) if is_at_home(run_dir, root) else None


def check_links(run_dir: Path, root: Path) -> Begun | None:
    """Return what `begun_here` does; RunError for a link that a run of its owner cannot have."""
    begun = begun_here(run_dir, root)
    refuse_links(run_dir, begun is not None)
    return begun


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
    """Return whether a run's folder is the one that its id has among the runs of a root."""
    home = root / "runs" / read_record(run_dir)["run_id"]
    return run_dir.resolve() == home.resolve()


def _read(root: Path, run_id: str) -> Begun | None:
    try:
        note = read_object(_path(root, run_id))
        begun = Begun(note["uri"], tuple(note["artifacts"]), dict(note["settings"]))
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


def with_trusted_places(
    config: Config, begun: Begun | None, words: Sequence[str], storage: str | None
) -> Config:
    """Return a stored configuration, which includes the overrides `words`, with trusted places.

    Places on the command line count first, then the noted ones of an own run. Those of a foreign
    run are dropped, and its checkpoints go to `storage`. ConfigError if a foreign run would read a
    file that is not on the command line, or if an own run's storage had credentials and `storage`
    is None.
    """
    given = {key for key in NAMED if any(word.startswith(f"{key}=") for word in words)}
    stored = places(config)
    if begun is not None:
        values = {key: begun.settings.get(key) for key in NAMED}
        if HIDDEN in (values["tracking.storage"] or ""):
            values["tracking.storage"] = storage or values["tracking.storage"]
    else:
        values = dict.fromkeys(NAMED) | {"tracking.storage": storage}
        for key in READ:
            if stored[key] and key not in given:
                raise ConfigError(
                    f"expected {key}={stored[key]} on the command line, since this root did not "
                    "begin the run that would read it, got nothing: add it if those files are "
                    "meant, or --mine if the run is yours"
                )
    trusted = {key: values[key] for key in NAMED if key not in given}
    _check_is_whole(trusted.get("tracking.storage"))
    return with_places(config, trusted)


def _check_is_whole(storage: str | None) -> None:
    """Raise ConfigError for the noted address of a storage that had credentials."""
    if storage is None or HIDDEN not in storage:
        return
    variables = CREDENTIALS.get(storage.partition("://")[0], "the environment")
    raise ConfigError(
        "expected tracking.storage=URI on the command line, since credentials are not stored, got "
        f"{storage} alone: add it whole, or without its secrets and with the credentials in "
        f"{variables}, or tracking.storage=null to go on without it"
    )


def name_address(run_dir: Path, what: str, address: str) -> None:
    """Warn of an address of a foreign run before it is used."""
    _log.warning("run %r was not begun here: %s %r", run_dir.name, what, mask(address))


def check_artifacts(address: str, begun: Begun | None, root: Path) -> None:
    """Raise RunError if a run's artifacts would go to a folder outside this root's own."""
    if begun is not None and mask(address) in begun.artifacts:
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
    """Raise RunError if the store's addresses for a run's artifacts are not allowed.

    A warning names each address of a foreign run.
    """
    check_is_no_copy(run_dir, root)
    for address in addresses:
        if begun is None:
            name_address(run_dir, "its artifacts go to", address)
        check_artifacts(address, begun, root)


def is_named(config: TrackingConfig) -> bool:
    """Return whether the user, not a run, has chosen the store."""
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
