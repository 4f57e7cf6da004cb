"""A finished pre-training: used by another run with the same settings for it, or scored.

A client that has never trained has nothing to score. Where a secret key draws the cohorts, who
takes part follows from the key alone, and whoever simulates the run has it. `scored.json` names
those of the finished pre-training that lies beside it, of this run's rounds or of the run whose
rounds it has taken over.
"""

import shutil
from collections.abc import Container
from dataclasses import replace
from pathlib import Path

from pipeline.checkpoint.evaluation_store import load_evaluations
from pipeline.checkpoint.snapshots import checkpoints, go_back, newest_checkpoint
from pipeline.clients.store import ClientStore
from pipeline.config.meaning import pretrain_fingerprint
from pipeline.config.schema import Config
from pipeline.evaluation.scores import RealData
from pipeline.federation.participants import first_participants, has_secret_cohorts
from pipeline.federation.setup import FederationSetup, check_floors
from pipeline.files.atomic import read_object, reading, write_json
from pipeline.results.metric_names import DELTA, EPSILON, FINAL_STEP, PRETRAINING
from pipeline.results.recording import log_evaluation
from pipeline.runs.layout import CHECKPOINTS, CLIENTS, EVALUATIONS, SCORED
from pipeline.runs.noise_key import read_noise
from pipeline.runs.record import check_same
from pipeline.tracking.outbox import Points, read_points
from pipeline.tracking.tracker import Tracker
from spire_core.errors import RunError
from spire_core.federated.participation import secret_cohort


def reuse_pretraining(
    source: Path, setting: FederationSetup, real: RealData, tracker: Tracker
) -> None:
    """Copy the finished pre-training of the run in `source` into this run, with its record.

    Raises RunError as `copy_pretraining` does, and if it had other images or another extractor.
    """
    config, run_dir = setting.config, tracker.run_dir
    # The partition of these clients follows from the settings; new clients may differ.
    check_same(source, {k: v for k, v in setting.hashes.items() if k != "partition_hash"})
    copy_pretraining(source, run_dir, config, setting.train_ids)
    tracker.log_points(pretraining_points(source))
    go_back(run_dir, config)  # a damaged last evaluation is done again
    for evaluation in load_evaluations(run_dir, config.federation.num_rounds):
        log_evaluation(tracker, setting, evaluation, real)


def has_pretraining(run_dir: Path, config: Config) -> bool:
    """Return whether a run holds a finished pre-training of these settings, every file whole."""
    state = newest_checkpoint(run_dir, pretrain_fingerprint(config))
    return state is not None and state.round_idx == config.federation.num_rounds


def copy_pretraining(
    source: Path, run_dir: Path, config: Config, train_ids: Container[int]
) -> None:
    """Copy the last checkpoint, the evaluations and the clients' states of a finished pre-training.

    A run in which this ends early has no checkpoint that counts, and nothing of the other run stays
    when it begins its own rounds. Raises RunError if the pre-training has not
    finished, or has other settings.
    """
    state = newest_checkpoint(source, pretrain_fingerprint(config))
    if state is None or state.round_idx != config.federation.num_rounds:
        raise RunError(
            f"expected a finished pre-training of {config.federation.num_rounds} rounds in "
            f"{source}, got {'none' if state is None else state.round_idx}: resume that run first"
        )
    store = ClientStore(source / CLIENTS)
    trained = [client_id for client_id in store.client_ids() if client_id in train_ids]
    files = [file for client_id in trained for file in store.versions(client_id)[-1:]]
    files += [source / SCORED] if (source / SCORED).exists() else []
    files += sorted(checkpoints(source)[-1].glob("*"))
    # The one before the first round comes last: without it no checkpoint counts, and it alone would
    # stay beside rounds of its own.
    files += sorted((source / EVALUATIONS).glob("*.safetensors"), reverse=True)
    for own in (CHECKPOINTS, CLIENTS, EVALUATIONS):  # of an attempt of its own
        shutil.rmtree(run_dir / own, ignore_errors=True)
    for file in files:
        target = run_dir / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target)


def pretraining_points(source: Path) -> Points:
    """Return the metrics that a run recorded in pre-training, in the order of their rounds."""
    points = [
        (step, {key: value for key, value in metrics.items() if _is_of_rounds(key, step)})
        for step, metrics in read_points(source)
    ]
    return [(step, metrics) for step, metrics in points if metrics]


def _is_of_rounds(key: str, step: int) -> bool:
    """Return whether a point is of pre-training; a new client's privacy is at `FINAL_STEP`."""
    return key.startswith(PRETRAINING) or (key in (EPSILON, DELTA) and step > FINAL_STEP)


# --- where a secret key draws the cohorts ---


def with_participants(
    setting: FederationSetup, run_dir: Path, source: Path | None
) -> FederationSetup:
    """Return a setting whose scored pre-training clients take part in the rounds of a run.

    `source`: the run whose pre-training is reused; its key is gone, and its folder names them.
    Without one, a run that has no finished pre-training will train its own rounds. Raises DataError
    if a client has too few images for scores, RunError if nobody is named or the file is damaged.
    """
    config = setting.config
    if not has_secret_cohorts(config):
        return setting
    remedy = "delete this file and resume the run"
    if source is not None:
        remedy = "let this run train by itself, or put the file back"
    beside = source or (run_dir if has_pretraining(run_dir, config) else None)
    ids = None if beside is None else _scored_ids(beside, config, remedy)
    if ids is None and source is not None:
        raise RunError(
            f"expected the clients that took part in {source / SCORED}, got none: {remedy}"
        )
    if ids is None:
        noise, federation = read_noise(run_dir, config.privacy), config.federation
        num_clients, cohort_size = federation.num_clients, federation.cohort_size
        ids = first_participants(
            config, lambda round_: secret_cohort(num_clients, cohort_size, noise, round_)
        )
        write_json(run_dir / SCORED, {"client_ids": ids})
    if not ids:  # each cohort was empty, so that any client will do
        return setting
    found = replace(setting, participants=tuple(ids))
    check_floors(found)
    return found


def _scored_ids(run_dir: Path, config: Config, remedy: str) -> list[int] | None:
    """Return the clients that a run's file names, None without one; RunError if it is damaged."""
    path, num_clients = run_dir / SCORED, config.federation.num_clients
    if not path.exists():
        return None
    with reading("the clients that took part", path, remedy):
        ids: list[int] = read_object(path)["client_ids"]
        if not all(type(client_id) is int and 0 <= client_id < num_clients for client_id in ids):
            raise ValueError(f"{ids!r:.50} as clients")
        return ids
