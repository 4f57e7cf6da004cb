"""Stages after the rounds that examine the pre-training clients on the final backbone."""

import itertools
from pathlib import Path

import numpy as np

from pipeline.clients.store import ClientStore
from pipeline.evaluation.scores import (
    CrossClientMatrix,
    Evaluation,
    RealData,
    Scoring,
    evaluate_tuned,
)
from pipeline.federation.pool import ClientPool
from pipeline.federation.setup import FederationSetup
from pipeline.runs.layout import CLIENTS

CROSS_CLIENTS = 8  # at most, in the matrix of losses


def cross_client_losses(
    setting: FederationSetup, pool: ClientPool, weights: np.ndarray, run_dir: Path
) -> CrossClientMatrix | None:
    """Return held-out losses of clients' data (row) with each other's own parts (column) on (P,).

    All entries of a row are taken at the same noise; the diagonal is `HeldoutLosses.own`. The
    clients are the first evaluated ones that have trained an own part; None if there are none.
    """
    client_ids = _trained_ids(setting, ClientStore(run_dir / CLIENTS))
    if not client_ids:
        return None
    rows = pool.run_all("losses_as", list(client_ids), pool.share(weights), client_ids)
    return CrossClientMatrix(client_ids, np.array(rows))


def _trained_ids(setting: FederationSetup, store: ClientStore) -> tuple[int, ...]:
    method, num_rounds = setting.config.method, setting.config.federation.num_rounds
    if not method.record.is_personal:
        return ()
    first = method.first_own_round(num_rounds)
    newest = ((c, store.newest(c, num_rounds)) for c in setting.eval_ids)
    trained = (c for c, path in newest if path is not None and int(path.stem) > first)
    return tuple(itertools.islice(trained, CROSS_CLIENTS))


def finetune_clients(
    setting: FederationSetup, real: RealData, pool: ClientPool, weights: np.ndarray
) -> Evaluation:
    """Return scores of pre-training clients, each after it has trained on alone.

    It trains what a new client would, from the backbone (P,) and its own part if it has one.
    """
    config, client_ids = setting.config, setting.eval_ids
    num_images = [len(setting.partition.split(client_id).train) for client_id in client_ids]
    return evaluate_tuned(
        pool,
        weights,
        client_ids,
        num_images,
        config.adapt,
        config.federation.num_rounds,
        Scoring(real, config.eval, config.seed),
    )
