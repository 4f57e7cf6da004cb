"""Pre-training on disk: going back to a checkpoint after a crash, and taking over another run's."""

import shutil
from collections.abc import Container
from pathlib import Path

from pipeline.checkpoint import checkpoints, kept_rounds, newest_checkpoint, save_checkpoint
from pipeline.client_store import ClientStore
from pipeline.config import Config
from pipeline.outbox import Points, read_points
from spire_core.errors import RunError
from spire_core.server import ServerState

RECORDED = ("pretrain/", "time/", "comm/", "memory/")  # names of what rounds and evaluations log


def go_back(run_dir: Path, config: Config) -> ServerState | None:
    """Return the state of a run's newest checkpoint, or None, and drop what lies after it."""
    state = newest_checkpoint(run_dir, config.pretrain_fingerprint)
    ClientStore(run_dir / "clients").rewind(0 if state is None else state.round_idx)
    return state


def is_checkpoint_due(num_rounds_done: int, config: Config) -> bool:
    """Return whether a checkpoint is taken after so many rounds; after the last one always."""
    every = config.tracking.checkpoint_every
    is_last = num_rounds_done == config.federation.num_rounds
    return is_last or bool(every and num_rounds_done % every == 0)


def take_checkpoint(run_dir: Path, state: ServerState, config: Config) -> None:
    """Write a checkpoint of the server's state, unless there is one of that round."""
    if state.round_idx not in kept_rounds(run_dir):
        keep = config.tracking.keep_checkpoints
        save_checkpoint(run_dir, state, config.pretrain_fingerprint, keep)


def copy_pretraining(
    source: Path, run_dir: Path, config: Config, train_ids: Container[int]
) -> None:
    """Copy the last checkpoint, the evaluations and the clients' states of a finished pre-training.

    RunError if it has not finished, or was done with other settings.
    """
    state = newest_checkpoint(source, config.pretrain_fingerprint)
    if state is None or state.round_idx != config.federation.num_rounds:
        raise RunError(
            f"expected a finished pre-training of {config.federation.num_rounds} rounds in "
            f"{source}, got {'none' if state is None else state.round_idx}: resume that run first"
        )
    store = ClientStore(source / "clients")
    trained = [client_id for client_id in store.client_ids() if client_id in train_ids]
    files = [file for client_id in trained for file in store.versions(client_id)[-1:]]
    files += sorted((source / "evaluations").glob("*.safetensors"))
    files += sorted(checkpoints(source)[-1].glob("*"))
    for file in files:
        target = run_dir / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target)


def pretraining_points(source: Path) -> Points:
    """Return the numbers that a run recorded in pre-training, in the order of their rounds."""
    points = [
        (step, {key: value for key, value in metrics.items() if key.startswith(RECORDED)})
        for step, metrics in read_points(source)
    ]
    return [(step, metrics) for step, metrics in points if metrics]
