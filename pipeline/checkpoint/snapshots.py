"""A run's checkpoints on disk: atomic snapshots of its state after some rounds.

A checkpoint is a folder `checkpoints/<rounds done>/` with the server's state and `manifest.json`.
The manifest lists that file and those beside the folder that belong to the checkpoint: the clients'
states, on the clients' side (`clients/store.py`), and the evaluations so far. Each file carries its
own hash. A checkpoint is whole if all of them are intact. To read it runs no code. An unfinished
one is called `checkpoints/.<rounds done>.part`.

An evaluation, which a resumed run need not repeat, is `evaluations/<rounds done>.safetensors` with
features, class histograms and images as `<position>.features` and so on. Its header holds the
scores as JSON.
"""

import contextlib
import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np
import torch

from pipeline.clients.store import ClientStore
from pipeline.config.meaning import pretrain_fingerprint
from pipeline.config.schema import Config
from pipeline.evaluation.scores import Evaluation
from pipeline.federation.messages import GeneratedSamples, HeldoutLosses
from pipeline.files.atomic import GO_BACK, DamagedError, reading, sync, write_json
from pipeline.files.tensors import read_arrays, write_arrays
from pipeline.runs.layout import CHECKPOINTS, CLIENTS, EVALUATIONS, MANIFEST, STATE
from pipeline.runs.server_state import read_state
from pipeline.tracking.outbox import sync_outbox
from spire_core.errors import RunError
from spire_core.evaluation.kid import KidScore
from spire_core.federated.server import ServerState

_log = logging.getLogger(__name__)


def checkpoints(run_dir: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, oldest first."""
    found = [p for p in (run_dir / CHECKPOINTS).glob("*") if p.name.isdecimal()]
    return sorted(found, key=lambda path: int(path.name))


def kept_rounds(run_dir: Path) -> tuple[int, ...]:
    """Return after how many rounds the existing checkpoints were taken."""
    return tuple(int(path.name) for path in checkpoints(run_dir))


def folder_of(run_dir: Path, num_rounds_done: int) -> Path:
    """Return the folder of the checkpoint after so many rounds."""
    return run_dir / CHECKPOINTS / f"{num_rounds_done:07d}"


def checkpoint_names(path: Path) -> list[str]:
    """Return the names, in the run's folder, of a checkpoint's files, its manifest last.

    The server's state is the first. Raises as `reading` does if the manifest is damaged.
    """
    return [*_read_manifest(path)[1], f"{CHECKPOINTS}/{path.name}/{MANIFEST}"]


def kept_names(run_dir: Path) -> set[str]:
    """Return the names, in the run's folder, of the files of all its checkpoints."""
    names = set[str]()
    for path in checkpoints(run_dir):
        with contextlib.suppress(DamagedError):
            names.update(checkpoint_names(path))
    return names


def _read_manifest(path: Path) -> tuple[str, list[str]]:
    """Return the fingerprint of a checkpoint's settings, and the names of its files."""
    with reading("a checkpoint's manifest", path / MANIFEST, GO_BACK):
        manifest = json.loads((path / MANIFEST).read_text())
        return manifest["pretrain_fingerprint"], manifest["files"]


# --- writing ---


def new_state_file(run_dir: Path, num_rounds_done: int) -> Path:
    """Return the path for the server's state of a new checkpoint, and make its folder."""
    path = _part(run_dir, num_rounds_done) / STATE
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _part(run_dir: Path, num_rounds_done: int) -> Path:
    return run_dir / CHECKPOINTS / f".{num_rounds_done:07d}.part"


def save_checkpoint(
    run_dir: Path,
    num_rounds_done: int,
    written: Callable[[], int],
    fingerprint: str,
    keep: int,
    pinned_rounds: Collection[int] = (),
) -> None:
    """Complete the checkpoint of `new_state_file`; drop all but the newest `keep` and the pinned.

    `written` waits for that file. `fingerprint` is that of the settings of pre-training, which a
    reader compares. In this order there reach the disk: the state, the clients' states, the
    evaluations, the numbers of the rounds in the outbox, the manifest, and the checkpoint's name.
    RunError if there is no room; then older checkpoints stay.
    """
    part, target = _part(run_dir, num_rounds_done), folder_of(run_dir, num_rounds_done)
    try:
        written()
        store = ClientStore(run_dir / CLIENTS)
        beside = [store.path(c, done) for c, done in store.rounds_seen(num_rounds_done).items()]
        earlier = [done for done in evaluated_rounds(run_dir) if done < num_rounds_done]
        beside += [evaluation_path(run_dir, done) for done in earlier]
        for path in (part / STATE, *beside, *{path.parent for path in beside}):
            sync(path)
        sync_outbox(run_dir)  # a resume repeats no round that is in a checkpoint
        names = [path.relative_to(run_dir).as_posix() for path in (target / STATE, *beside)]
        write_json(part / MANIFEST, {"pretrain_fingerprint": fingerprint, "files": names})
        sync(part)  # the names in it, before its own
        part.rename(target)
        sync(part.parent)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    for old in checkpoints(run_dir)[:-keep]:
        if int(old.name) not in pinned_rounds:
            shutil.rmtree(old)


# --- reading ---


def newest_checkpoint(run_dir: Path, fingerprint: str) -> ServerState | None:
    """Return the server's state of the newest whole checkpoint, or None.

    A warning names a damaged file of each newer one. RunError if a checkpoint belongs to other
    settings. A file that cannot be read now may be intact: the system's error is passed on.
    """
    for path in reversed(checkpoints(run_dir)):
        try:
            began, names = _read_manifest(path)
            if began != fingerprint:
                raise RunError(
                    f"expected a checkpoint of these settings in {path}, got one of others: start "
                    "a new run instead"
                )
            for name in names[1:]:
                read_arrays(run_dir / name)
            return read_state(path / STATE, int(path.name))
        except DamagedError as error:
            _log.warning("a checkpoint is passed over: %s", error)
    return None


def go_back(run_dir: Path, config: Config) -> ServerState | None:
    """Return the state of a run's newest whole checkpoint, or None; later files are deleted.

    None stands for the state before the first round. The run then repeats all its rounds and ends
    with the same result. An evaluation of the state itself stays: it is not repeated.
    """
    state = newest_checkpoint(run_dir, pretrain_fingerprint(config))
    done = 0 if state is None else state.round_idx
    unfinished = (run_dir / CHECKPOINTS).glob(".*.part")
    for folder in (*unfinished, *(p for p in checkpoints(run_dir) if int(p.name) > done)):
        shutil.rmtree(folder)
    kept = {run_dir / name for name in kept_names(run_dir)}
    own = evaluation_path(run_dir, done)
    if own.is_file():
        try:
            read_arrays(own)
            kept.add(own)
        except DamagedError as error:
            _log.warning("damaged: %s: it is done again", error)
    for folder in (CLIENTS, EVALUATIONS):
        for path in (run_dir / folder).rglob("*"):
            if path.is_file() and path not in kept:
                path.unlink()
    return state


# --- evaluations ---


def evaluation_path(run_dir: Path, num_rounds_done: int) -> Path:
    """Return the path of the evaluation after so many rounds."""
    return run_dir / EVALUATIONS / f"{num_rounds_done:07d}.safetensors"


def evaluated_rounds(run_dir: Path) -> list[int]:
    """Return after how many rounds evaluations were stored, in order."""
    return sorted(int(path.stem) for path in (run_dir / EVALUATIONS).glob("*.safetensors"))


def save_evaluation(run_dir: Path, evaluation: Evaluation) -> None:
    """Write one evaluation atomically, replacing an earlier one of the same round."""
    arrays = {
        f"{i}.{kind}": np.asarray(array)
        for i, drawn in enumerate(evaluation.drawn)
        for kind in ("features", "histogram", "images")
        if (array := getattr(drawn, kind)) is not None
    }
    scores = json.dumps(dataclasses.asdict(evaluation.without_samples()))
    path = evaluation_path(run_dir, evaluation.round_idx)
    path.parent.mkdir(exist_ok=True)
    write_arrays(path, arrays, evaluation=scores)


def load_evaluations(run_dir: Path, num_rounds_done: int) -> Iterator[Evaluation]:
    """Yield the evaluations after at most so many rounds, in order; RunError if one is damaged."""
    for done in evaluated_rounds(run_dir):
        if done <= num_rounds_done:
            yield _load_evaluation(evaluation_path(run_dir, done))


def _load_evaluation(path: Path) -> Evaluation:
    arrays, texts = read_arrays(path)
    values = json.loads(texts["evaluation"])
    drawn = [
        GeneratedSamples(
            client_id,
            torch.from_numpy(arrays[f"{i}.features"]),
            arrays.get(f"{i}.histogram"),
            arrays[f"{i}.images"],
        )
        for i, client_id in enumerate(values["client_ids"])
    ]
    scores = [KidScore(**score) for score in values["scores"]]
    losses = [HeldoutLosses(**loss) for loss in values["losses"]]
    tv = None if values["tv"] is None else tuple(values["tv"])
    ids = tuple(values["client_ids"])
    return Evaluation(values["round_idx"], ids, tuple(scores), tv, tuple(losses), tuple(drawn))
