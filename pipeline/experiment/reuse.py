"""A finished pre-training: used by another run with the same settings for it, or scored.

A client that has never trained has nothing to score. Where a secret key draws the cohorts, who
takes part follows from the key alone, and whoever simulates the run has it. `scored.json` names
those of the finished pre-training that lies beside it, of this run's rounds or of the run whose
rounds it has taken over.
"""

import shutil
from dataclasses import replace
from functools import partial
from operator import index
from pathlib import Path

from pipeline.checkpoint.snapshots import checkpoints, go_back, load_evaluations, newest_checkpoint
from pipeline.clients.store import ClientStore
from pipeline.config.meaning import pretrain_fingerprint
from pipeline.config.schema import Config
from pipeline.evaluation.scores import RealData
from pipeline.federation.setup import (
    FederationSetup,
    check_floors,
    first_participants,
    has_secret_cohorts,
)
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

    These are the last checkpoint, the evaluations, the clients' states and the metrics of rounds. A
    run in which this ends early has no checkpoint that counts, and nothing of the other run stays
    when it begins its own rounds. Raises RunError if the pre-training has not finished, or has
    other settings, images or another extractor.
    """
    config, run_dir = setting.config, tracker.run_dir
    # The partition of these clients follows from the settings; new clients may differ.
    check_same(source, {k: v for k, v in setting.hashes.items() if k != "partition_hash"})
    if not has_pretraining(source, config):
        raise RunError(
            f"expected a finished pre-training of {config.federation.num_rounds} rounds in "
            f"{source}, got none: resume that run first"
        )
    store = ClientStore(source / CLIENTS)
    trained = [client_id for client_id in store.client_ids() if client_id in setting.train_ids]
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
    tracker.log_points(pretraining_points(source))
    go_back(run_dir, config)  # a damaged last evaluation is done again
    for evaluation in load_evaluations(run_dir, config.federation.num_rounds):
        log_evaluation(tracker, setting, evaluation, real)


def has_pretraining(run_dir: Path, config: Config) -> bool:
    """Return whether a run holds a finished pre-training of these settings, every file whole."""
    state = newest_checkpoint(run_dir, pretrain_fingerprint(config))
    return state is not None and state.round_idx == config.federation.num_rounds


def pretraining_points(source: Path) -> Points:
    """Return the metrics that a run recorded in pre-training, in the order of their rounds."""
    points = []
    for step, metrics in read_points(source):
        kept = {key: value for key, value in metrics.items() if key.startswith(PRETRAINING)}
        if step > FINAL_STEP:  # at which a new client's privacy stands
            kept |= {key: metrics[key] for key in (EPSILON, DELTA) if key in metrics}
        points += [(step, kept)] if kept else []
    return points


# --- where a secret key draws the cohorts ---


def with_participants(
    setting: FederationSetup, run_dir: Path, source: Path | None
) -> FederationSetup:
    """Return a setting whose scored pre-training clients take part in the rounds of a run.

    `source`: the run whose pre-training is reused; its key is gone, and its folder names them.
    Without one, a run that has no finished pre-training will train its own rounds. Raises DataError
    if a client has too few images for scores, RunError if the file is missing or damaged.
    """
    config, path = setting.config, (source or run_dir) / SCORED
    if not has_secret_cohorts(config):
        return setting
    if source is None and not (path.exists() and has_pretraining(run_dir, config)):
        noise, federation = read_noise(run_dir, config.privacy), config.federation
        sizes = (federation.num_clients, federation.cohort_size)
        ids = first_participants(config, partial(secret_cohort, *sizes, noise))
        write_json(path, {"client_ids": ids})
    with reading("the clients that took part", path, "let this run train by itself"):
        ids = tuple(map(index, read_object(path)["client_ids"]))
    if not ids:  # each cohort was empty, so that any client will do
        return setting
    found = replace(setting, participants=ids)
    check_floors(found)
    return found
