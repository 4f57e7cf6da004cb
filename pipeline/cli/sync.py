"""Relays the waiting entries of runs to the present tracking store."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config.tracking import TrackingConfig
from pipeline.runs.record import read_record, run_lock
from pipeline.tracking.mlflow_session import sink_of
from pipeline.tracking.outbox import num_refused, num_waiting
from pipeline.tracking.relay import relay_all
from spire_core.errors import RunError, StoreError


def sync_runs(
    config: TrackingConfig,
    run_dirs: Sequence[Path],
    is_chosen: bool = False,
    is_anew: bool = False,
) -> list[dict[str, Any]]:
    """Relay the waiting entries of these runs to the present store; return each one's outcome.

    `problem`: the reason why some of a run's entries still wait. With `is_anew` a run that the
    store does not know begins there anew. RunError if one that is chosen is not there, OSError if
    its files cannot be used; else that is its problem.
    """
    synced, silent = list[dict[str, Any]](), None  # the error of a store that is not asked again
    for run_dir in run_dirs:
        record = read_record(run_dir)
        if not record["tracked"]:
            continue
        delivered, problem = 0, silent
        try:
            if is_anew or (silent is None and num_waiting(run_dir)):
                with run_lock(run_dir) if is_anew else contextlib.nullcontext():
                    delivered, problem = relay_all(run_dir, sink_of(run_dir, config, is_anew))
        except StoreError as error:
            silent = problem = str(error)
        except (RunError, OSError) as error:
            if is_chosen:
                raise
            problem = str(error)
        waiting = num_waiting(run_dir)
        synced.append(
            {
                "run_id": record["run_id"],
                "run_name": record["run_name"],
                "num_delivered": delivered,
                "num_waiting": waiting,
                "num_refused": num_refused(run_dir),
                "problem": problem if waiting else None,
            }
        )
    return synced
