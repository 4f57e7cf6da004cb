"""The pre-training clients that are scored where a secret key draws the cohorts.

A client that has never trained has nothing to score. Who takes part follows from the key alone, and
whoever simulates the run has it. `scored.json` names those of the finished pre-training that lies
beside it, of this run's rounds or of the run whose rounds it has taken over (`reuse`).
"""

from dataclasses import replace
from pathlib import Path

from pipeline.config.schema import Config
from pipeline.experiment.reuse import has_pretraining
from pipeline.federation.participants import first_participants, has_secret_cohorts
from pipeline.federation.setup import FederationSetup, check_floors
from pipeline.files.damage import read_object, reading
from pipeline.files.json_files import write_json
from pipeline.runs.layout import SCORED
from pipeline.runs.noise_key import read_noise
from spire_core.errors import RunError
from spire_core.federated.participation import secret_cohort


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
    ids = _of_run(run_dir, config) if source is None else _of_source(source, config)
    if not ids:  # each cohort was empty, so that any client will do
        return setting
    found = replace(setting, participants=tuple(ids))
    check_floors(found)
    return found


def _of_run(run_dir: Path, config: Config) -> list[int]:
    remedy = "delete this file and resume the run"
    ids = _read(run_dir, config, remedy) if has_pretraining(run_dir, config) else None
    if ids is None:
        ids = _participants(config, run_dir)
        write_json(run_dir / SCORED, {"client_ids": ids})
    return ids


def _participants(config: Config, run_dir: Path) -> list[int]:
    noise, federation = read_noise(run_dir, config.privacy), config.federation
    sizes = (federation.num_clients, federation.cohort_size)
    return first_participants(config, lambda round_: secret_cohort(*sizes, noise, round_))


def _of_source(source: Path, config: Config) -> list[int]:
    remedy = "let this run train by itself, or put the file back"
    ids = _read(source, config, remedy)
    if ids is None:
        raise RunError(
            f"expected the clients that took part in {source / SCORED}, got none: {remedy}"
        )
    return ids


def _read(run_dir: Path, config: Config, remedy: str) -> list[int] | None:
    """Return the clients that a run's file names, None without one; RunError if it is damaged."""
    path = run_dir / SCORED
    if not path.exists():
        return None
    with reading("the clients that took part", path, remedy):
        ids: list[int] = read_object(path)["client_ids"]
        for client_id in ids:
            is_one = type(client_id) is int and 0 <= client_id < config.federation.num_clients
            if not is_one:
                raise ValueError(f"{client_id!r:.50} as a client")
        return ids
