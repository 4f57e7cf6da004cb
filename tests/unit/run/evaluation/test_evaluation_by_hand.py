"""Who is scored against what: every number of an evaluation under its own name."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.config.schema import Config
from pipeline.evaluation import scores
from pipeline.evaluation.forgetting import ForgettingCurve
from pipeline.evaluation.scores import (
    RealData,
    cross_client_kid,
    evaluate_pretraining,
    pooled_features,
)
from pipeline.federation.messages import (
    FittedClient,
    GeneratedSamples,
    HeldoutLosses,
    Look,
    report_of,
)
from pipeline.results.metrics import adaptation_metrics
from pipeline.results.tables import pretraining_clients
from spire_core.adaptation.adapt import AdaptPoint
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
    real = RealData.gather(pool, CLIENTS, mixtures, EVAL, SEED)
    for c in CLIENTS:
        assert real.floors[c] == kid_floor(features("real", c, 90), 10, 3, SEED, max_images=20)
        assert real.floors[c].num_real == 20
    config = Config(eval=EVAL, seed=SEED)
    found = evaluate_pretraining(pool, np.zeros(1), CLIENTS, config, 5, real)
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
    real = RealData.gather(pool, CLIENTS, {c: np.eye(4)[c] for c in CLIENTS}, EVAL, SEED)
    old, new = [drawn(0)], [drawn(c) for c in CLIENTS[1:]]
    matrix = cross_client_kid(old, new, real)
    assert matrix is not None
    assert matrix.client_ids == tuple(CLIENTS)
    for i in CLIENTS:
        for j in CLIENTS:
            score = kid(features("real", j, 90), drawn(i).features, 10, 3, SEED)
            assert matrix.values[i, j] == score.mean


def test_the_matrix_is_of_the_first_clients_of_either_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its cost is that of all pairs; the numbers of those that it has do not depend on the rest."""
    pool: Any = AnsweringPool()
    ids = range(6)
    real = RealData.gather(pool, ids, {c: np.eye(4)[0] for c in ids}, EVAL, SEED)
    seen = [replace(drawn(c % 4), client_id=c, features=features("drawn", c, 20)) for c in ids]
    whole = cross_client_kid(seen[:3], seen[3:], real)
    monkeypatch.setattr(scores, "CROSS_CLIENTS", 2)
    some = cross_client_kid(seen[:3], seen[3:], real)
    alone = cross_client_kid(seen[:3], [], real)
    assert whole is not None
    assert some is not None
    assert alone is not None
    assert some.client_ids == (0, 1, 3, 4)
    assert np.array_equal(some.values, whole.values[np.ix_(some.client_ids, some.client_ids)])
    assert alone.client_ids == (0, 1)
    assert cross_client_kid([], [], real) is None


def test_a_pool_of_features_is_a_sample_of_all_clients() -> None:
    every = [torch.full((100, 1), float(c)) for c in range(10)]
    some = pooled_features(every, 50, seed=0)
    assert len(some) == 50
    assert len(some.unique()) > 5
    assert len(pooled_features(every, 5000, seed=0)) == 1000


def test_an_adapted_client_is_reported_before_and_after() -> None:
    def look(epoch: int, shown: int, is_kept: bool = False, guidance: float | None = None) -> Look:
        images = np.full((1, 1, 2, 2), shown)
        return Look(
            epoch=epoch,
            guidance=guidance,
            scores={"own_kid": float(shown)},
            heldout=torch.full((3,), float(shown)),
            duration_s=1.0,
            drawn=GeneratedSamples(7, features("drawn", shown, 20), None, images),
            distances=(shown + 0.25, shown + 0.5) if is_kept else None,
        )

    looks = {epoch: look(epoch, epoch) for epoch in (0, 2, 3)}
    kept = look(2, 2, is_kept=True)
    curve = tuple(AdaptPoint(e, None, None, {} if e in looks else None) for e in range(4))
    fitted = FittedClient(
        client_id=7,
        curve=curve,
        kept_epoch=2,
        num_trained=5,
        fit_duration_s=3.0,
        duration_s=4.0,
    )
    report = report_of(fitted, [*looks.values(), kept])
    assert report.before.images is not None
    assert report.after.images is not None
    assert (report.before.images.max(), report.after.images.max()) == (0, 2)
    assert report.scores_after == {"own_kid": 2.0}
    assert (report.nn_train, report.nn_test) == (2.25, 2.5)
    observed = [point.observed for point in report.curve]
    assert observed == [{"own_kid": 0.0}, None, {"own_kid": 2.0}, {"own_kid": 3.0}]
    assert (report.num_trained, report.fit_duration_s, report.duration_s) == (5, 3.0, 8.0)
    # With a guidance of its own the client is looked at once more, and its curve stays as it is.
    guided = report_of(replace(fitted, guidance=3.0), [*looks.values(), look(2, 9, True, 3.0)])
    assert guided.after.images is not None
    assert (guided.scores_after, guided.after.images.max()) == ({"own_kid": 9.0}, 9)
    assert [point.observed for point in guided.curve] == observed
    assert guided.heldout[2].tolist() == [9.0] * 3


def test_curves_of_adaptation_are_named_by_what_they_are() -> None:
    seen = {"own_kid": 1.0, "population_kid": 7.0, "tv": 0.5, "heldout_loss": 0.25}
    report = SimpleNamespace(curve=[AdaptPoint(0, None, 0.75, seen)])
    curve = ForgettingCurve(1, epochs=(0,), own=(1.5,), lost=(2.0,), replaced=(3.0,))
    adaptation: Any = SimpleNamespace(reports=[report], curves=[curve])
    assert adaptation_metrics(adaptation) == {
        0: {
            "adapt/kid/mean": 1.0,
            "adapt/kid/worst": 1.0,
            "adapt/kid/population": 7.0,
            "adapt/tv/mean": 0.5,
            "adapt/heldout/mean": 0.25,
            "adapt/val_loss": 0.75,
            "forgetting/own": 1.5,
            "forgetting/global": 2.0,
            "forgetting/replaced": 3.0,
        }
    }
