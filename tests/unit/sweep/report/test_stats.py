"""Intervals, pairs and groups, against numbers worked out by hand."""

import math
from dataclasses import replace

import pytest
from scipy import stats

from pipeline.results.metric_names import CLIENTS_DELTA, CLIENTS_EPSILON, DELTA, EPSILON, NN_P
from pipeline.tracking.mlflow_queries import TrackedRun
from spire_core.config.client import ClientConfig
from sweeps.report.choice import best_groups, choosing_metric, lowest
from sweeps.report.differences import (
    differences_table,
    own_best_difference,
    same_setting_difference,
    setting_differences_table,
    within_methods_table,
)
from sweeps.report.groups import group_runs, label, varying, whole
from sweeps.report.stats import (
    Estimate,
    combined_p,
    estimate,
    greatest,
    paired,
    t_quantile,
    t_tails,
    verdict,
)
from sweeps.report.tables import cell_text, settings_table

KID = "final/adapt_kid_after"
AFTER = {"spire": 1.0, "local": 2.0}


def run(method: str, seed: int, kid: float | None = None, **params: object) -> TrackedRun:
    """A finished experiment; `model__d_emb=4` sets model.d_emb."""
    told = {key.replace("__", "."): str(value) for key, value in params.items()}
    told = {"method.name": method, "seed": str(seed), "resources.num_actors": str(seed)} | told
    name = f"{method}-{seed}-{params}"
    tags = {"partition_hash": f"p{seed}", "extractor": "cnn", "extractor_hash": "0123456789"}
    finals = {} if kid is None else {KID: kid}
    return TrackedRun(name, name, "FINISHED", told, tags, finals, 0)


def test_a_setting_that_is_no_param_has_its_default() -> None:
    default = f"{ClientConfig().prox_mu}"
    runs = [run("spire", 0), run("spire", 1, client__prox_mu=0.5)]
    assert varying(runs) == []
    assert varying([whole(one) for one in runs]) == ["client.prox_mu"]
    runs = [run("spire", 0), run("spire", 1, client__prox_mu=default)]  # of an earlier version
    assert varying([whole(one) for one in runs]) == []


# ------------------------------------------------------------------------------------- intervals


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423), (120, 1.9799)],
)
def test_t_agrees_with_printed_tables(freedom: int, quantile: float) -> None:
    assert t_quantile(freedom) == pytest.approx(quantile, abs=5e-5)


def test_students_distribution_with_one_and_two_degrees_is_known_in_closed_form() -> None:
    """A tail that is far below the distance between 1 and the next number is not lost."""
    for t in (0.1, 1.0, 7.5, 1e20):
        assert t_tails(t, 1) == pytest.approx(2 / math.pi * math.atan(1 / t), rel=1e-12, abs=0)
        root = math.sqrt(2 + t * t)
        assert t_tails(t, 2) == pytest.approx(2 / (root * (root + t)), rel=1e-12, abs=0)


def test_an_interval_worked_out_by_hand() -> None:
    found = estimate([1.0, 2.0, 3.0])  # s = 1, t = 4.302653, sqrt(3) = 1.732051
    assert found == Estimate(2.0, pytest.approx(2.484138, abs=1e-6), 3, 1.0, 3.0)


def test_one_value_has_no_interval_and_none_has_no_mean() -> None:
    assert estimate([5.0]) == Estimate(5.0, None, 1, 5.0, 5.0)
    assert estimate([]) is None


def test_of_guarantees_the_weakest_holds_for_all_seeds() -> None:
    assert greatest([]) is None
    assert greatest([4.0, 4.0]) == estimate([4.0, 4.0])
    found = greatest([4.0, 8.0, 5.0], missing=1)
    assert found == Estimate(8.0, None, 3, 4.0, 8.0, 1)
    assert cell_text(found) == "8 (n=3)"


@pytest.mark.parametrize("key", [EPSILON, DELTA, CLIENTS_EPSILON, CLIENTS_DELTA])
def test_a_groups_promise_is_its_weakest(key: str) -> None:
    runs = [replace(run("spire", seed), finals={key: 1.0 + seed}) for seed in (0, 1)]
    found = group_runs(runs)[0].estimate(key)
    assert found == Estimate(2.0, None, 2, 1.0, 2.0)


def test_pairs_are_those_that_both_have() -> None:
    found = paired({0: 1.5, 1: 2.5, 2: 3.8, 9: 100.0}, {0: 1.0, 1: 2.0, 2: 3.0, 8: -100.0})
    assert found is not None  # 0.5, 0.5, 0.8: s = 0.173205
    assert (found.mean, found.half_width, found.num) == (
        pytest.approx(0.6),
        pytest.approx(0.430265, abs=1e-6),
        3,
    )
    assert paired({0: 1.0}, {1: 1.0}) is None


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ([0.5, 0.5, 0.8], "higher"),
        ([-0.5, -0.5, -0.8], "lower"),
        ([0.5, 0.5, -0.8], "cannot tell"),
        ([3.0], "cannot tell"),
        ([0.0, 0.0], "cannot tell"),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(values: list[float], word: str) -> None:
    found = estimate(values)
    assert found is not None
    assert verdict(found) == word


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (estimate([0.54, 0.55, 0.56]), "0.550 ± 0.025"),
        (estimate([1.0, 2.0, 3.0]), "2.0 ± 2.5"),
        (estimate([1000.0, 3000.0]), "2000 ± 12706"),
        (estimate([455172.0] * 3), "455172"),
        (estimate([0.0, 0.0]), "0"),
        (estimate([0.123456]), "0.123"),
        (estimate([0.5], missing=2), "0.5 (n=1)"),
        (estimate([1e-9, 3e-9]), "0.000000 ± 0.000000"),
        (None, "-"),
        ("spire", "spire"),
        (3, "3"),
    ],
)
def test_cells_show_two_digits_of_their_interval(cell: Estimate | None, text: str) -> None:
    assert cell_text(cell) == text


# ---------------------------------------------------------------------------------------- groups


def test_what_varies_is_found_without_seeds_resources_and_absent_parameters() -> None:
    runs = [run("spire", 0, model__d_emb=4, new=1), run("spire", 1, model__d_emb=8)]
    assert varying(runs) == ["model.d_emb"]
    assert [group.setting for group in group_runs(runs)] == [
        (("model.d_emb", "4"),),
        (("model.d_emb", "8"),),
    ]


def test_what_a_method_does_not_read_does_not_part_its_seeds() -> None:
    """As when a sweep gets more values and seeds: its old trials logged the first value."""
    runs = [run("spire", 0, model__d_emb=d_emb) for d_emb in (4, 8)]
    runs += [run("fedavg_ft", 0, model__d_emb=8), run("fedavg_ft", 1, model__d_emb=4)]
    *spire, theirs = group_runs(runs)
    assert [group.setting for group in spire] == [(("model.d_emb", "4"),), (("model.d_emb", "8"),)]
    assert (theirs.method, len(theirs.runs)) == ("fedavg_ft", 2)


def test_groups_hold_seeds_in_order_and_the_later_of_two_equal_runs() -> None:
    early, late = run("spire", 1, 1.0), run("spire", 1, 2.0)
    late = replace(late, run_id="late", started_ms=5)
    (group,) = group_runs([late, run("spire", 0, 3.0), early])
    assert [r.run_id for r in group.runs] == [run("spire", 0).run_id, "late"]
    assert group.values(KID) == {(0, "p0"): 3.0, (1, "p1"): 2.0}


def test_settings_are_sorted_as_numbers_and_labelled() -> None:
    runs = [run("spire", 0, federation__tau=t, adapt__lr=lr) for t, lr in ((16, 0.1), (8, None))]
    assert [label(g.setting) for g in group_runs(runs)] == ["tau=8", "adapt.lr=0.1, tau=16"]


def test_other_data_is_another_task_and_so_is_another_extractor() -> None:
    runs = [run("spire", 0, data__name=name) for name in ("mnist", "cifar10")]
    assert [g.task for g in group_runs(runs)] == [
        (("data.name", "cifar10"),),
        (("data.name", "mnist"),),
    ]
    other = run("spire", 1)
    other = TrackedRun(**{**vars(other), "tags": {"extractor": "inception"}})
    tasks = [label(g.task) for g in group_runs([run("spire", 0), other])]
    assert tasks == ["extractor=cnn 01234567", "extractor=inception"]


def test_other_images_in_a_folder_are_another_task() -> None:
    def tasks(name: str, *hashes: str | None) -> list[str]:
        runs = [run("spire", 0, data__name=name, number=i) for i in range(len(hashes))]
        tags = [{} if sha256 is None else {"data_hash": sha256} for sha256 in hashes]
        found = [TrackedRun(**{**vars(r), "tags": t}) for r, t in zip(runs, tags, strict=True)]
        return sorted({label(group.task) for group in group_runs(found)})

    assert tasks("folder", "a" * 64, "b" * 64) == ["images=aaaaaaaa", "images=bbbbbbbb"]
    assert tasks("folder", "a" * 64, "a" * 64) == [""]
    assert tasks("folder", None, "a" * 64) == [""]  # nobody wrote down which images those were
    assert tasks("mnist", "a" * 64, "b" * 64) == [""]  # such a name says which images


def test_a_pretrained_backbone_is_told_by_its_hash() -> None:
    """One method on a model, on another and on none: three settings, of one seed each."""
    runs = [run("spire", 0) for _ in range(3)]
    for one, sha256 in zip(runs, ("a" * 64, "b" * 64), strict=False):
        one.tags["backbone_hash"] = sha256
    groups = group_runs(runs)
    told = ["defaults", "model.backbone=aaaaaaaa", "model.backbone=bbbbbbbb"]
    assert [label(group.setting) for group in groups] == told
    assert [group.setting for group in group_runs(runs[:1])] == [()]


def test_the_best_setting_has_the_lowest_mean_among_those_with_most_seeds() -> None:
    runs = [run("spire", s, kid, model__d_emb=4) for s, kid in ((0, 3.0), (1, 5.0))]
    runs += [run("spire", s, kid, model__d_emb=8) for s, kid in ((0, 4.0), (1, 3.0))]
    runs += [run("spire", 0, 0.1, model__d_emb=16)]  # one lucky seed
    runs += [run("spire", s, kid, model__d_emb=32) for s, kid in ((0, 0.1), (1, math.nan))]
    (chosen,) = best_groups(group_runs(runs), KID)
    assert chosen.setting == (("model.d_emb", "8"),)


def test_rivals_are_ranked_on_the_seeds_that_they_share() -> None:
    """The better one has a hard seed for which the other has an easy one."""
    runs = [run("spire", s, kid, model__d_emb=4) for s, kid in ((0, 1.0), (1, 1.0), (2, 9.0))]
    runs += [run("spire", s, kid, model__d_emb=8) for s, kid in ((0, 2.0), (1, 2.0), (3, 0.1))]
    (chosen,) = best_groups(group_runs(runs), KID)
    assert chosen.setting == (("model.d_emb", "4"),)
    scored = [(group, group.values(KID)) for group in group_runs(runs)]
    assert lowest(scored)[0].setting == (("model.d_emb", "4"),)
    assert lowest(scored[1:])[0].setting == (("model.d_emb", "8"),)


def test_of_settings_with_equal_new_clients_the_best_has_the_best_pretraining_clients() -> None:
    tuned = {1: 0.4, 4: 0.2, 8: 0.3}  # epochs of their fine-tuning: the KID that it ends with
    runs = []
    for epochs, own_kid in tuned.items():
        one = run("fedavg_ft", 0, 1.0, adapt__tune_epochs=epochs)
        finals = one.finals | {"final/pretrain_tuned_kid_mean": own_kid}
        runs.append(replace(one, finals=finals))
    (chosen,) = best_groups(group_runs(runs), KID)
    assert chosen.setting == (("adapt.tune_epochs", "4"),)


def test_a_task_without_the_choosing_score_chooses_by_one_of_its_own() -> None:
    style = "final/adapt_style_distance_after"
    fonts = [run("spire", 0, data__name="fonts", adapt__lr=lr) for lr in (0.1, 0.2)]
    fonts = [replace(one, finals={style: 0.3 - i / 10}) for i, one in enumerate(fonts)]
    digits = [run("spire", 0, kid, data__name="mnist", adapt__lr=kid) for kid in (0.9, 0.4, 0.7)]
    groups = group_runs([*fonts, *digits])
    metric = choosing_metric(groups)
    assert metric == style
    chosen = {group.method: [] for group in groups}
    for group in best_groups(groups, metric):
        chosen[group.method].append(dict(group.setting)["adapt.lr"])
    assert sorted(chosen["spire"]) == ["0.2", "0.4"]


@pytest.mark.parametrize(
    ("data", "tag"), [("mnist", "text_hash"), ("outside", "data_hash"), ("folder", "data_hash")]
)
def test_runs_of_other_texts_or_images_are_no_repetitions(data: str, tag: str) -> None:
    runs = [run("spire", 0, kid, data__name=data) for kid in (1.0, 2.0)]
    for one, sha256 in zip(runs, ("a" * 64, "b" * 64), strict=True):
        one.tags[tag] = sha256
    assert len(group_runs(runs)) == 2


def test_losses_of_other_numbers_of_images_are_another_task() -> None:
    runs = [run("spire", 0, 1.0, eval__num_loss_images=num) for num in (64, 128)]
    assert len({group.task for group in group_runs(runs)}) == 2


def test_a_value_that_is_no_number_is_in_no_mean_and_shows() -> None:
    runs = [
        run("spire", 0, 1.0),
        run("spire", 1, math.nan),
        run("spire", 2, 1.7976931348623157e308),
    ]
    table = settings_table(group_runs(runs))
    assert table is not None
    (row,) = table.rows
    assert [cell_text(cell) for cell in row] == ["spire", "3", "1 (n=1)"]


def test_the_choosing_metric_is_one_that_there_is() -> None:
    assert choosing_metric(group_runs([run("spire", 0, 1.0)])) == KID
    bare = TrackedRun(**{**vars(run("spire", 0)), "finals": {"final/pretrain_kid_mean": 1.0}})
    assert choosing_metric(group_runs([bare])) == "final/pretrain_kid_mean"


# ----------------------------------------------------------------------------------------- pairs


def test_seeds_that_lack_a_setting_are_in_no_mean_over_settings() -> None:
    """At tau=1 a method is 0.1 behind and at tau=12 0.5, on every seed that was run there."""
    runs = []
    for seed, taus in ((0, (1, 12)), (1, (1, 12)), (2, (12,)), (3, (12,))):
        for tau in taus:
            behind = 0.1 if tau == 1 else 0.5
            runs.append(run("spire", seed, 1.0 + seed, federation__tau=tau))
            runs.append(run("shared_rep", seed, 1.0 + seed + behind, federation__tau=tau))
    found = same_setting_difference(group_runs(runs), "shared_rep", KID, KID)
    assert found is not None
    assert (found.mean, found.num) == (pytest.approx(0.3), 2)


@pytest.mark.parametrize(
    ("others", "ratio"),
    [
        ([run("local", 2, -0.1)], pytest.approx(math.log(2))),  # in no pair
        ([run("local", 2, 0.0), run("spire", 2, 0.1)], None),
    ],
)
def test_a_seed_that_is_in_no_pair_costs_no_log_ratio(
    others: list[TrackedRun], ratio: float | None
) -> None:
    runs = [run(method, seed, kid) for method, kid in AFTER.items() for seed in (0, 1)]
    table = differences_table(group_runs([*runs, *others]), KID)
    assert table is not None
    (row,) = (dict(zip(table.columns, cells, strict=True)) for cells in table.rows)
    found = row.get("log ratio")
    assert (found.mean if isinstance(found, Estimate) else found) == ratio
    settings = [whole(r) for d_emb in (4, 8) for r in _with_d_emb([*runs, *others], d_emb)]
    table = setting_differences_table(group_runs(settings), KID)
    assert table is not None
    for cells in table.rows:
        found = dict(zip(table.columns, cells, strict=True)).get("log ratio")
        assert (found.mean if isinstance(found, Estimate) else found) == ratio


def _with_d_emb(runs: list[TrackedRun], d_emb: int) -> list[TrackedRun]:
    return [replace(one, params={**one.params, "model.d_emb": str(d_emb)}) for one in runs]


def test_methods_are_compared_at_their_own_best_settings_on_the_same_seeds() -> None:
    runs = [run("spire", s, k, adapt__lr=0.02) for s, k in ((0, 1.0), (1, 2.0), (2, 3.0))]
    runs += [run("local", s, k, adapt__lr=0.1) for s, k in ((0, 1.5), (1, 2.5), (2, 3.8))]
    groups = group_runs(runs)
    found = own_best_difference(groups, "local", KID, KID)
    assert found is not None
    assert (found.mean, found.half_width) == (
        pytest.approx(0.6),
        pytest.approx(0.430265, abs=1e-6),
    )
    assert same_setting_difference(groups, "local", KID, KID) == found  # a rate is a method's own
    table = differences_table(groups, KID)
    assert table is not None
    (row,) = table.rows
    assert (row[0], row[2], *row[4:6]) == ("local", "own best settings", 3, "higher")
    logs = [math.log(1.5), math.log(1.25), math.log(3.8 / 3)]
    ratio = estimate(logs)
    assert ratio is not None
    assert isinstance(row[6], Estimate)
    assert (row[6].mean, row[6].half_width) == (
        pytest.approx(ratio.mean),
        pytest.approx(ratio.half_width),
    )


def test_at_the_same_settings_each_seed_counts_once() -> None:
    """Seed 0: 2 - 1 and 6 - 4, mean 1.5; seed 1: 4 and 4. What only one has is unused."""
    runs = [run("spire", 0, 1.0, federation__tau=1), run("spire", 0, 4.0, federation__tau=3)]
    runs += [run("spire", 1, 1.0, federation__tau=1), run("spire", 0, 0.0, federation__tau=9)]
    runs += [run("fedavg", 0, 2.0, federation__tau=1), run("fedavg", 0, 6.0, federation__tau=3)]
    runs += [run("fedavg", 1, 5.0, federation__tau=1), run("fedavg", 1, 6.0, federation__tau=3)]
    runs += [run("spire", 1, 2.0, federation__tau=3)]
    found = same_setting_difference(group_runs(runs), "fedavg", KID, KID)
    assert found is not None
    assert (found.mean, found.num, found.low, found.high) == (2.75, 2, 1.5, 4.0)


def test_settings_of_a_method_need_not_agree() -> None:
    runs = [run("spire", 0, 1.0, method__phases="joint", federation__tau=1)]
    runs += [run("shared_rep", 0, 2.0, method__phases="alternate", federation__tau=1)]
    runs += [run("spire", 0, 9.0, method__phases="joint", federation__tau=3)]
    found = same_setting_difference(group_runs(runs), "shared_rep", KID, KID)
    assert found is not None
    assert found.mean == 1.0


def test_setting_by_setting_a_method_stands_with_all_that_it_reads() -> None:
    """Fine-tuning has no embedding: it stands beside every size of SPIRE's, at its best rate."""
    runs = [run("spire", 0, 5.0, model__d_emb=64, eval__guidance=1, adapt__lr=0.02)]
    runs += [run("spire", 0, 1.0, model__d_emb=64, eval__guidance=1, adapt__lr=0.1)]
    runs += [run("spire", 0, 2.0, model__d_emb=16, eval__guidance=1, adapt__lr=0.1)]
    runs += [run("spire", 0, 3.0, model__d_emb=64, eval__guidance=2, adapt__lr=0.1)]
    runs += [run("fedavg_ft", 0, 99.0, model__d_emb=64, eval__guidance=1, adapt__lr=0.01)]
    runs += [run("fedavg_ft", 0, 10.0, model__d_emb=64, eval__guidance=1, adapt__lr=0.001)]
    runs += [run("fedavg_ft", 0, 30.0, model__d_emb=32, eval__guidance=2, adapt__lr=0.001)]
    table = setting_differences_table(group_runs(runs), KID)
    assert table is not None
    assert [(row[0], row[1], cell_text(row[2])) for row in table.rows] == [
        ("eval.guidance=1, model.d_emb=16", "fedavg_ft", "8"),
        ("eval.guidance=1, model.d_emb=64", "fedavg_ft", "9"),
        ("eval.guidance=2, model.d_emb=64", "fedavg_ft", "27"),
    ]
    assert [table.columns[-1], *(math.exp(row[-1].mean) for row in table.rows)] == [
        "log ratio",
        pytest.approx(10 / 2),
        pytest.approx(10 / 1),
        pytest.approx(30 / 3),
    ]
    assert setting_differences_table(group_runs(runs[:2] + runs[4:6]), KID) is None  # one setting
    assert setting_differences_table(group_runs(runs[:4]), KID) is None  # nobody else


def test_what_is_not_finished_is_compared_with_nothing() -> None:
    runs = [run("spire", s, 1.0 + s, federation__tau=tau) for tau in (1, 4, 16) for s in (0, 1)]
    runs += [run("fedavg_ft", s, 2.0 + 2 * s, federation__tau=1) for s in (0, 1)]
    runs += [run("local", s, 9.0, federation__tau=1) for s in (0, 1)]  # has no rounds
    table = setting_differences_table(group_runs(runs), KID)
    assert table is not None
    assert [(row[0], row[1], row[3], row[4]) for row in table.rows] == [
        ("tau=1", "fedavg_ft", 2, "cannot tell"),  # 1 and 2, whose interval is wide
        ("tau=1", "local", 2, "higher"),
        ("tau=4", "local", 2, "higher"),
        ("tau=16", "local", 2, "higher"),
    ]


def test_settings_of_a_method_are_held_against_its_best_one_each_at_its_best_rate() -> None:
    runs = [run("spire", s, 1.0 + s, model__d_emb=64, adapt__lr=0.1) for s in (0, 1, 2)]
    runs += [run("spire", s, 0.5 + s, model__d_emb=64, adapt__lr=0.02) for s in (0, 1, 2)]
    runs += [run("spire", s, 2.0 + 1.1 * s, model__d_emb=16, adapt__lr=0.02) for s in (0, 1, 2)]
    runs += [run("spire", s, 0.6 + s**2, model__d_emb=256, adapt__lr=0.02) for s in (0, 1, 2)]
    runs += [run("fedavg", 0, 9.0, model__d_emb=64)]  # at one setting alone
    table = within_methods_table(group_runs(runs), KID)
    assert table is not None
    assert [(*row[:2], cell_text(row[3]), *row[4:]) for row in table.rows] == [
        ("spire", "model.d_emb=16", "1.60 ± 0.25", 3, "higher"),
        ("spire", "model.d_emb=64", "-", None, None),
        ("spire", "model.d_emb=256", "0.8 ± 2.9", 3, "cannot tell"),
    ]
    assert cell_text(table.rows[1][2]) == "1.5 ± 2.5"
    assert within_methods_table(group_runs(runs[:6] + runs[-1:]), KID) is None

    turns = {1.0: "alternate", 2.0: "joint"}
    own = [run("shared_rep", 0, kid, method__phases=turns[kid]) for kid in turns]
    own += [run("fedavg_ft", 0, kid, adapt__tune_epochs=kid) for kid in (1, 2)]
    table = within_methods_table(group_runs(own), KID)
    assert table is not None
    assert [row[1] for row in table.rows] == ["method.phases=alternate", "method.phases=joint"]

    heldout = {"16": 0.25, "64": 0.5, "256": 0.5}  # that of the best score is not the best one
    for one in runs:
        loss = heldout[one.params["model.d_emb"]] + 0.125 * int(one.params["seed"])
        one.finals["final/adapt_heldout_after"] = loss
    table = within_methods_table(group_runs(runs), KID)
    assert table is not None
    assert [(row[1], cell_text(row[6]), cell_text(row[7]), row[9]) for row in table.rows] == [
        ("model.d_emb=16", "0.38 ± 0.31", "-0.25", "lower"),
        ("model.d_emb=64", "0.62 ± 0.31", "-", None),
        ("model.d_emb=256", "0.62 ± 0.31", "0", "cannot tell"),
    ]


def test_another_partition_of_the_same_seed_is_no_pair() -> None:
    other = run("local", 0, 5.0)
    other = TrackedRun(**{**vars(other), "tags": other.tags | {"partition_hash": "other"}})
    groups = group_runs([run("spire", 0, 1.0), run("spire", 1, 1.0), other, run("local", 1, 3.0)])
    found = own_best_difference(groups, "local", KID, KID)
    assert found is not None
    assert (found.mean, found.num) == (2.0, 1)


def test_without_spire_there_are_no_differences() -> None:
    assert differences_table(group_runs([run("local", 0, 1.0)]), KID) is None
    assert differences_table(group_runs([run("spire", 0, 1.0)]), KID) is None


def test_with_captions_no_method_is_compared_by_kid() -> None:
    runs = [run(m, seed, kid, model__text="words") for m, kid in AFTER.items() for seed in (0, 1)]
    for one in runs:
        one.finals["final/adapt_heldout_after"] = one.finals[KID]
        one.finals["final/pretrain_tuned_kid_mean"] = one.finals[KID]
    table = differences_table(group_runs(runs), KID)
    assert table is not None
    assert [row[table.columns.index("score")] for row in table.rows] == [
        "new clients: held-out after"
    ]


def test_a_p_value_of_one_hides_no_others() -> None:
    """Out of 9999 exchanges: 1 and the least one, 1 / 10,000, are equally far from a half."""
    even, small = combined_p([1.0, 1e-4]), combined_p([1.0, 1e-4, 1e-4, 1e-4])
    assert even is not None
    assert even.mean == pytest.approx(0.5)
    assert small is not None
    score = stats.norm.isf(1e-4)
    assert small.mean == pytest.approx(stats.norm.sf((3 - 1) * score / 2))
    assert (small.low, small.high, small.num) == (1e-4, 1.0, 4)
    plain = [0.3, 0.04, 0.9]
    combined = combined_p(plain)
    assert combined is not None
    assert combined.mean == pytest.approx(stats.combine_pvalues(plain, "stouffer").pvalue)
    assert combined_p([]) is None


def test_a_p_value_of_some_seeds_alone_says_of_how_many() -> None:
    runs = [run("spire", seed) for seed in range(3)]
    runs[:2] = [replace(one, finals={NN_P: 0.5}) for one in runs[:2]]
    [group] = group_runs(runs)
    found = group.estimate(NN_P)
    assert found is not None
    assert cell_text(found) == "0.5 (n=2)"
