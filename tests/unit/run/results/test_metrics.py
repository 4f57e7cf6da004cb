"""What an experiment comes to, by hand: forgetting curves, scores of rounds and of new clients."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config.load import load_config
from pipeline.evaluation.forgetting import (
    forgetting_curve,
    population_kid,
)
from pipeline.evaluation.scores import Evaluation, RealData
from pipeline.federation.messages import AdaptReport, GeneratedSamples, HeldoutLosses
from pipeline.federation.rounds import RoundStats
from pipeline.federation.setup import prepare
from pipeline.results.metrics import privacy_metrics, round_metrics, summary_metrics
from pipeline.results.result import Adaptation, Pretraining
from pipeline.results.tables import new_clients
from spire_core.adaptation.adapt import AdaptPoint
from spire_core.config.method import MethodConfig
from spire_core.config.privacy import PrivateAdaptConfig
from spire_core.evaluation.kid import KidScore, kid
from spire_core.privacy.guarantee import guarantee_of

OWN, POPULATION = (3.0, 1.0, 2.0, 0.5), (5.0, 6.0, 8.0, 4.0)


def score(mean: float) -> KidScore:
    return KidScore(mean, 0.0, 6, 2, 8, 8)


def drawn(client_id: int) -> GeneratedSamples:
    return GeneratedSamples(
        client_id, torch.zeros(8, 2), None, np.zeros((1, 1, 16, 16), np.float32)
    )


def report(client_id: int, own: tuple[float, ...] = OWN, seen_every: int = 1) -> AdaptReport:
    curve = tuple(
        AdaptPoint(
            epoch,
            1.0 if epoch else None,
            None,
            {"own_kid": o, "population_kid": p, "heldout_loss": 0.25, "own_kid_std": 0.0}
            if epoch % seen_every == 0
            else None,
        )
        for epoch, (o, p) in enumerate(zip(own, POPULATION, strict=True))
    )
    scores = {"own_kid": own[-1], "own_kid_std": 0.0, "heldout_loss": 0.125}
    before, after = drawn(client_id), replace(drawn(client_id), histogram=np.full(10, 0.1))
    return AdaptReport(
        client_id=client_id,
        curve=curve,
        kept_epoch=3,
        before=before,
        after=after,
        scores_after=scores,
        heldout={},
        nn_train=4.0,
        nn_test=5.0,
        num_trained=64,
        fit_duration_s=1.25,
        duration_s=1.5,
    )


def test_a_client_forgets_itself_where_its_kid_is_above_its_lowest() -> None:
    curve = forgetting_curve(report(7), MethodConfig("fedavg_ft"), None)
    assert curve.to_dict("list") == {"own": [0.0, 0.0, 1.0, 0.0]}


def test_existing_clients_lose_what_the_adapted_backbone_draws_worse() -> None:
    """Against the adapted model before its first step; none where the backbone stays."""
    whole = forgetting_curve(report(7), MethodConfig("fedavg_ft"), 4.5)
    assert whole["global"].tolist() == [0.0, 1.0, 3.0, -1.0]
    assert whole["replaced"].tolist() == [0.5, 1.5, 3.5, -0.5]
    for name in ("lora", "bias", "diffit"):  # rounds average an adapter, and all draw with it
        assert forgetting_curve(report(7), MethodConfig(name), 4.5).equals(whole)
    for name in ("spire", "retrofit", "shared_rep", "fedavg"):
        kept = forgetting_curve(report(7), MethodConfig(name), 4.5)
        assert kept.equals(whole.assign(**{"global": 0.0}))


def test_only_epochs_that_were_looked_at_are_in_a_curve() -> None:
    curve = forgetting_curve(report(7, seen_every=2), MethodConfig("fedavg_ft"), 4.5)
    assert curve[["own", "global"]].to_dict() == {
        "own": {0: 0.0, 2: 0.0},
        "global": {0: 0.0, 2: 3.0},
    }


def evaluation(round_idx: int, kids: tuple[float, float]) -> Evaluation:
    losses = (HeldoutLosses(0, 0.1, 0.2, 0.4), HeldoutLosses(1, 0.3, 0.4, 0.8))
    return Evaluation(round_idx, (0, 1), (score(kids[0]), score(kids[1])), (0.25, 0.75), losses, ())


def test_an_evaluations_numbers_are_over_its_clients() -> None:
    found = evaluation(3, (1.0, 4.0)).metrics()
    assert found == pytest.approx(
        {
            "pretrain/kid/mean": 2.5,
            "pretrain/kid/worst": 4.0,
            "pretrain/kid/std": 1.5,
            "pretrain/tv/mean": 0.5,
            "pretrain/heldout/own": 0.2,
            "pretrain/heldout/zero": 0.3,
            "pretrain/heldout/swapped": 0.6,
        }
    )


def test_the_end_is_the_last_round_and_the_best_the_lowest(mnist_root: Path) -> None:
    setting = prepare(load_config("smoke", [f"data.root={mnist_root}"]))
    new = setting.new_ids[0]
    ids = (0, 1, new, new + 1)
    mixture = np.eye(10)[3]  # one class alone, of which any draw is an exact image
    real = RealData(
        {i: torch.zeros(8, 2) for i in ids},
        dict.fromkeys(ids, mixture),
        {i: score(0.01 * i) for i in (*setting.eval_ids, *ids)},
        (10, 1, 0),
    )
    reports = [report(new), report(new + 1, (4.0, 3.0, 2.0, 1.0))]
    evaluations = [evaluation(n, kids) for n, kids in ((1, (3, 3)), (2, (1, 2)), (3, (2, 2)))]
    pretraining = Pretraining(np.zeros(1), tuple(evaluations))
    curves = [forgetting_curve(r, MethodConfig("fedavg_ft"), 4.5) for r in reports]
    adaptation = Adaptation(tuple(reports), tuple(curves))
    found = summary_metrics(setting, real, pretraining, None, adaptation)
    expected = {
        "best/kid_mean": 1.5,
        "best/round": 2.0,
        "final/pretrain_kid_mean": 2.0,
        "final/pretrain_heldout_zero": 0.3,
        "final/pretrain_kid_floor": np.mean([0.01 * i for i in setting.eval_ids]),
        "final/adapt_kid_before": 3.5,
        "final/adapt_kid_after": 0.75,
        "final/adapt_kid_ratio": 0.75 / 3.5,
        "final/adapt_kid_worst": 1.0,
        "final/adapt_heldout_before": 0.25,
        "final/adapt_heldout_after": 0.125,
        "final/adapt_nn_train": 4.0,
        "final/adapt_nn_test": 5.0,
        "final/adapt_tv_floor": 0.0,
        "final/adapt_forgetting_own": 0.0,
        "final/adapt_forgetting_global": -1.0,
        "final/adapt_forgetting_replaced": -0.5,
        "final/adapt_duration_s": 1.5,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)

    drawn_for = {"nearest_client": {"style_distance": 0.25}}
    some = replace(adaptation, controls=({**drawn_for, "mean_client": {"copied": 0.5}}, drawn_for))
    found = summary_metrics(setting, real, pretraining, None, some)
    assert found["final/adapt_style_distance_nearest_client"] == 0.25
    assert "final/adapt_copied_mean_client" not in found  # of one client alone
    table = new_clients(some, real, 6)
    assert table["copied_mean_client"].dropna().tolist() == [0.5]
    assert [type(value) for value in table["num_trained"]] == [int, int]

    even = np.full(10, 0.1)  # eight images of ten classes cannot show a tenth of each
    real = replace(real, mixtures=dict.fromkeys(ids, even))
    found = summary_metrics(setting, real, pretraining, None, adaptation)
    assert 0.2 < found["final/adapt_tv_floor"] < 0.6
    unseen = [replace(one, after=replace(one.after, histogram=None)) for one in reports]
    blind = replace(adaptation, reports=tuple(unseen))  # as with text, and without a classifier
    assert "final/adapt_tv_floor" not in summary_metrics(setting, real, pretraining, None, blind)


def test_each_number_of_a_round_has_its_own_name() -> None:
    stats = RoundStats(
        round_idx=0,
        loss=0.5,
        up_bytes=1,
        down_bytes=2,
        num_steps=3,
        num_dropped=4,
        train_s=7.0,
        aggregate_s=8.0,
        dispatch_s=9.0,
        idle_fraction=0.1,
    )
    found = round_metrics(stats, 11.0)
    assert found == {
        "pretrain/loss": 0.5,
        "pretrain/dropped": 4,
        "time/round_s": 15.0,
        "time/train_s": 7.0,
        "time/aggregate_s": 8.0,
        "time/dispatch_s": 9.0,
        "time/idle_fraction": 0.1,
        "time/track_s": 11.0,
        "comm/up_bytes": 1,
        "comm/down_bytes": 2,
    }
    private = round_metrics(replace(stats, loss=None), 11.0)
    assert found.keys() - private.keys() == {"pretrain/loss"}


def test_a_runs_privacy_holds_for_each_of_its_new_clients() -> None:
    budgets = (PrivateAdaptConfig(epsilon=e, delta=d) for e, d in ((4.0, 1e-3), (3.0, 1e-2)))
    first, second = (guarantee_of(budget, num_images=40) for budget in budgets)
    assert first is not None
    assert second is not None
    holds = replace(first, delta=second.delta)
    other = replace(first, delta=2e-3)  # of as large an epsilon
    for guarantees, weakest in (((second, first), holds), ((first, other), other)):
        reports = (replace(report(i), guarantee=one) for i, one in enumerate(guarantees))
        found = Adaptation(tuple(reports), ())
        pair = {"privacy/epsilon": weakest.epsilon, "privacy/delta": weakest.delta}
        assert privacy_metrics(found) == pair
        assert found.weakest_guarantee == weakest
    nobody = Adaptation((report(0),), ())
    assert (privacy_metrics(nobody), nobody.weakest_guarantee) == ({}, None)


def test_a_few_personal_clients_are_held_against_their_own_data() -> None:
    """They cannot draw what the others hold, and a perfect model loses nothing before it adapts."""
    generator = torch.Generator().manual_seed(0)
    real = {c: torch.randn(64, 4, generator=generator) + 3.0 * c for c in range(4)}
    again = {c: torch.randn(64, 4, generator=generator) + 3.0 * c for c in range(4)}
    pooled = torch.cat(list(real.values()))

    def kid_of(
        method: str,
        client_ids: tuple[int, ...],
        features: list[torch.Tensor],
        held: dict[int, torch.Tensor] = real,
    ) -> float:
        config = load_config(None, [f"method={method}", "eval.kid_subset_size=50"])
        drew = [replace(drawn(c), features=f) for c, f in zip(client_ids, features, strict=True)]
        evaluation = Evaluation(0, client_ids, (), None, (), tuple(drew))
        return population_kid(evaluation, held, pooled, config)

    everybody = kid_of("spire", (0, 1, 2, 3), list(again.values()))
    some = kid_of("spire", (0, 1), [again[0], again[1]])
    shared = kid_of("fedavg_ft", (0, 1), [torch.cat(list(again.values()))] * 2)
    others = kid(pooled, torch.cat([again[0], again[1]]), 50, 100, 0).mean
    assert max(abs(everybody), abs(some), abs(shared)) < 0.1 * others

    sizes = {0: 64, 1: 6, 2: 6, 3: 64}  # small clients are a small part of the population
    unequal = {c: real[c][:size] for c, size in sizes.items()}
    everybody = kid_of("spire", (0, 1, 2, 3), list(again.values()), unequal)
    assert abs(everybody) < 0.1 * others
