"""The pre-training clients that are scored where a secret key draws the cohorts.

A client that has never trained has nothing to score. Who takes part follows from the key alone, and
whoever simulates the run has it.
"""

from dataclasses import replace
from pathlib import Path

from pipeline.config.schema import Config
from pipeline.federation.participants import first_participants, has_secret_cohorts
from pipeline.federation.setup import FederationSetup, check_floors
from pipeline.files.json_files import read_json, write_json
from pipeline.runs.layout import SCORED
from pipeline.runs.noise_key import read_noise
from spire_core.errors import RunError
from spire_core.federated.participation import secret_cohort


def with_participants(
    setting: FederationSetup, run_dir: Path, source: Path | None
) -> FederationSetup:
    """Return a setting whose scored pre-training clients take part in the rounds of a run.

    `source`: the run whose pre-training is reused; its key is gone, and its folder names them.
    Raises DataError if a client has too few images for scores, RunError if nobody is named.
    """
    config = setting.config
    if not has_secret_cohorts(config):
        return setting
    kept = read_json(run_dir / SCORED)
    if kept is None:
        ids = _participants(config, run_dir) if source is None else _of_source(source)
        write_json(run_dir / SCORED, kept := {"client_ids": ids})
    if not kept["client_ids"]:  # each cohort was empty, so that any client will do
        return setting
    found = replace(setting, participants=tuple(kept["client_ids"]))
    check_floors(found)
    return found


def _participants(config: Config, run_dir: Path) -> list[int]:
    noise, federation = read_noise(run_dir, config.privacy), config.federation
    sizes = (federation.num_clients, federation.cohort_size)
    return first_participants(config, lambda round_: secret_cohort(*sizes, noise, round_))


def _of_source(source: Path) -> list[int]:
    kept = read_json(source / SCORED)
    if kept is None:
        raise RunError(
            f"expected the clients that took part in {source / SCORED}, got none: let this run "
            "train by itself, or put the file back"
        )
    return kept["client_ids"]
