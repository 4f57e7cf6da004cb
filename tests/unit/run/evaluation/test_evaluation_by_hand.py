"""Who is scored against what: every number of an evaluation under its own name."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.config.schema import Config
from pipeline.evaluation.scores import (
    RealData,
    cross_client_kid,
    evaluate_pretraining,
)
from pipeline.federation.messages import GeneratedSamples, HeldoutLosses
from pipeline.results.tables import pretraining_clients
from spire_core.config.eval import EvalConfig
from spire_core.evaluation.kid import kid, kid_floor
from spire_core.rng import torch_generator

EVAL = EvalConfig(num_images=20, kid_subset_size=10, kid_num_subsets=3)
SEED, CLIENTS = 7, [0, 1, 2]


def features(stream: str, client_id: int, num: int) -> Tensor:
    """Features of a client's images, the farther from the origin the higher its id."""
    return torch.randn(num, 4, generator=torch_generator(SEED, stream, client_id)) + client_id / 2


def drawn(client_id: int) -> GeneratedSamples:
    """20 images, all of them of the client's own class."""
    images = np.zeros((1, 1, 8, 8))
    return GeneratedSamples(
        client_id, features("drawn", client_id, 20), np.eye(4)[client_id], images
    )


def setting_of(mixtures: dict[int, np.ndarray]) -> Any:
    """A setting of pre-training clients alone."""
    config = Config(eval=EVAL, seed=SEED)
    return SimpleNamespace(config=config, eval_ids=CLIENTS, new_ids=[], mixtures=mixtures)


class AnsweringPool:
    """Answers as workers would; `swap_partners` keeps whose embedding each client was lent."""

    def __init__(self) -> None:
        self.swap_partners: dict[int, int] = {}

    def share(self, weights: np.ndarray) -> np.ndarray:
        return weights

    def run_all(self, task: str, units: list[Any], *args: Any, **more: Any) -> list[Any]:
        if task == "reference_features":
            return [features("real", c, 90) for c in units]
        if task == "draw":
            return [[drawn(c) for c in group] for group in units]
        assert task == "losses"
        for client_id, (partner,) in zip(units, more["per_unit"], strict=True):
            self.swap_partners[client_id] = partner
        return [HeldoutLosses(c, own=1.0 + c, zero=2.0 + c, swapped=3.0 + c) for c in units]


def test_each_client_is_held_against_its_own_data() -> None:
    pool: Any = AnsweringPool()
    one = np.eye(4)
    mixtures = {0: (one[0] + one[1]) / 2, 1: (one[1] + one[2]) / 2, 2: one[2]}
    setting = setting_of(mixtures)
    real = RealData.gather(pool, setting)
    for c in CLIENTS:
        assert real.floors[c] == kid_floor(features("real", c, 90), 10, 3, SEED, max_images=20)
        assert real.floors[c].num_real == 20
    found = evaluate_pretraining(setting, real, pool, np.zeros(1), 5)
    assert pool.swap_partners == {0: 1, 1: 2, 2: 0}
    for c, score in zip(CLIENTS, found.scores, strict=True):
        assert score == kid(features("real", c, 90), drawn(c).features, 10, 3, SEED)
    table = pretraining_clients(found, real).to_dict("list")
    assert table["tv"] == pytest.approx([0.5, 0.5, 0.0])
    assert table["heldout_own"] == [1.0, 2.0, 3.0]
    assert table["heldout_zero"] == [2.0, 3.0, 4.0]
    assert table["heldout_swapped"] == [3.0, 4.0, 5.0]


def test_the_matrix_has_generators_in_rows_and_real_data_in_columns() -> None:
    pool: Any = AnsweringPool()
    real = RealData.gather(pool, setting_of({c: np.eye(4)[c] for c in CLIENTS}))
    old, new = [drawn(0)], [drawn(c) for c in CLIENTS[1:]]
    matrix = cross_client_kid(old, new, real)
    assert matrix is not None
    assert [*matrix.index] == CLIENTS
    assert cross_client_kid([], [], real) is None
    for i in CLIENTS:
        for j in CLIENTS:
            score = kid(features("real", j, 90), drawn(i).features, 10, 3, SEED)
            assert matrix.values[i, j] == score.mean
