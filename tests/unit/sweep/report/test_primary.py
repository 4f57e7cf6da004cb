"""Primary comparisons: against scipy, Holm by hand, and on runs that are written out by hand."""

import itertools
import math
import random
from dataclasses import replace

import pytest
from scipy import stats

from pipeline.results.metric_names import (
    COVERED_RATIO,
    FLD_EXCESS,
    NN_CHANCE,
    NN_EXCESS,
    NN_SHARE,
)
from pipeline.tracking.mlflow_queries import TrackedRun
from spire_core.errors import ConfigError
from sweeps.design.config import SweepConfig
from sweeps.design.planned import planned_configs, planned_tasks, run_of
from sweeps.primary import HELDOUT, Primary, Run, Side, check_primaries, primaries
from sweeps.report.groups import group_runs
from sweeps.report.primary import (
    Finding,
    findings,
    primary_answers,
    primary_table,
)
from sweeps.report.stats import Estimate, equivalence_p, estimate, holm, two_sided_p

KID, TV = "final/adapt_kid_after", "final/adapt_tv_after"


def draws(num: int, shift: float) -> list[float]:
    rng = random.Random(num)
    return [rng.gauss(shift, 1.0) for _ in range(num)]


@pytest.mark.parametrize("num", [2, 3, 8, 31])
@pytest.mark.parametrize("shift", [0.0, 1.0, -3.0])
def test_p_values_are_those_of_scipy(num: int, shift: float) -> None:
    values = draws(num, shift)
    found = estimate(values)
    assert found is not None
    assert two_sided_p(found) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-9, abs=0)
    for limit in (0.2, 2.0):
        below = stats.ttest_1samp(values, limit, alternative="less").pvalue
        above = stats.ttest_1samp(values, -limit, alternative="greater").pvalue
        assert equivalence_p(found, limit) == pytest.approx(max(below, above), rel=1e-9, abs=0)


def test_p_values_below_the_last_digit_of_one_are_known() -> None:
    found = Estimate(1.0, 1e-6, 8, 1.0, 1.0)
    p, equal = two_sided_p(found), equivalence_p(found, 3.0)
    assert p is not None
    assert 0 < p < 1e-35
    assert equal is not None
    assert 0 < equal < p


def test_pairs_that_all_differ_alike_leave_no_doubt_and_one_pair_says_nothing() -> None:
    same, one = estimate([0.5, 0.5, 0.5]), estimate([0.5])
    assert same is not None
    assert one is not None
    assert (two_sided_p(same), equivalence_p(same, 0.6), equivalence_p(same, 0.4)) == (0, 0, 1)
    assert (two_sided_p(one), equivalence_p(one, 0.6)) == (None, None)
    zero = estimate([0.0, 0.0])
    assert zero is not None
    assert (two_sided_p(zero), equivalence_p(zero, 0.1)) == (1, 0)


def test_holm_by_hand() -> None:
    """Times 4, 3, 2 and 1 from the smallest on, never below the one before."""
    assert holm([0.03, 0.01, 0.04, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([0.02, None]) == [0.04, None]  # one that could not be made counts
    assert holm([]) == []


def run(method: str, seed: int, kid: float, tv: float, images: int = 16) -> TrackedRun:
    told = {"method.name": method, "seed": str(seed), "adapt.num_images": str(images)}
    told |= {"adapt.lr": "0.1" if method == "spire" else "0.001"}
    name, tags = f"{method}-{seed}-{images}", {"partition_hash": f"p{seed}"}
    return TrackedRun(name, name, "FINISHED", told, tags, {KID: kid, TV: tv}, 0)


FACTORS = (1.9, 2.0, 2.1, 2.05)  # of SPIRE's KID, by seed
RUNS = [run("spire", seed, 0.1 * (seed + 1), 0.2) for seed in range(4)]
RUNS += [
    run("fedavg_ft", seed, 0.1 * (seed + 1) * factor, 0.2 + 0.001 * (-1) ** seed)
    for seed, factor in enumerate(FACTORS)
]


def found_of(*values: dict, runs: list[TrackedRun] = RUNS) -> list[Finding]:
    return findings(primaries(values), group_runs(runs), KID)


def test_a_ratio_is_compared_by_its_logarithm() -> None:
    (one,) = found_of({"method": "fedavg_ft"})
    logs = [math.log(factor) for factor in FACTORS]
    assert one.effect is not None
    assert one.effect.mean == pytest.approx(sum(logs) / 4)
    assert one.p == pytest.approx(stats.ttest_1samp(logs, 0).pvalue, abs=1e-12)
    assert (one.holm_p, one.verdict) == (one.p, "higher")
    mean, half = one.effect.mean, one.effect.half_width or 0.0
    low, high = math.exp(mean - half), math.exp(mean + half)
    assert one.ratio == f"{math.exp(mean):.3g} [{low:.3g}, {high:.3g}]"


def test_methods_match_within_a_margin_that_was_named() -> None:
    difference = {"method": "fedavg_ft", "measure": TV, "scale": "difference"}
    near, strict = found_of(difference | {"margin": 0.01}, difference | {"margin": 0.0005})
    assert (near.verdict, strict.verdict) == ("matches", "cannot tell")
    assert near.ratio is None
    assert near.effect is not None
    assert near.effect.mean == pytest.approx(0.0)


def test_each_method_stands_at_its_best_by_the_compared_score() -> None:
    """Fine-tuning at 0.001 is nearer to the true images; at 0.0001 more prompts are read."""
    distance, read = "final/adapt_style_distance_after", "final/adapt_prompt_accuracy_after"
    runs = []
    for method, lr, scores in (
        ("spire", "0.02", (0.2, 0.6)),
        ("fedavg_ft", "0.001", (0.1, 0.4)),
        ("fedavg_ft", "0.0001", (0.3, 0.55)),
    ):
        for seed in (0, 1):
            one = run(method, seed, 1.0, 0.2)
            finals = dict(zip((distance, read), scores, strict=True))
            runs.append(replace(one, params=one.params | {"adapt.lr": lr}, finals=finals))
    near, told = found_of(
        {"method": "fedavg_ft", "measure": distance, "scale": "difference"},
        {"method": "fedavg_ft", "measure": read, "scale": "difference"},
        runs=runs,
    )
    assert near.effect is not None
    assert told.effect is not None
    assert (near.effect.mean, told.effect.mean) == (pytest.approx(-0.1), pytest.approx(-0.05))


@pytest.mark.parametrize("measure", [COVERED_RATIO, FLD_EXCESS, "final/adapt_forgetting_global"])
def test_nobody_chooses_a_setting_by_what_does_not_speak_of_its_images(measure: str) -> None:
    rates = (("spire", "0.02", 0.2, 1.0), ("fedavg_ft", "0.001", 0.3, 5.0))
    runs = []
    for method, lr, kid, other in (*rates, ("fedavg_ft", "0.0001", 0.9, 2.0)):
        one = run(method, 0, kid, 0.2)
        finals = one.finals | {measure: other}
        runs.append(replace(one, params=one.params | {"adapt.lr": lr}, finals=finals))
    (found,) = found_of(
        {"method": "fedavg_ft", "measure": measure, "scale": "difference"}, runs=runs
    )
    assert found.effect is not None
    assert found.effect.mean == pytest.approx(4.0)  # at the rate of the lower KID


def test_a_difference_can_be_certain_and_too_small_to_matter() -> None:
    (one,) = found_of({"method": "fedavg_ft", "margin": 1.5})
    assert one.verdict == "higher, matches"


def test_comparisons_are_corrected_together_also_those_that_lack_runs() -> None:
    kid, tv, absent = found_of(
        {"method": "fedavg_ft"},
        {"method": "fedavg_ft", "measure": TV, "scale": "difference"},
        {"method": "local"},
    )
    assert kid.p is not None
    assert kid.holm_p == pytest.approx(3 * kid.p)
    assert tv.holm_p == pytest.approx(1.0)
    assert (absent.effect, absent.p, absent.verdict) == (None, None, "cannot tell")


def test_a_comparison_is_made_in_every_task_that_is_meant() -> None:
    more = [run(m, s, 1.0 + s, 0.2, images=64) for m in ("spire", "fedavg_ft") for s in (0, 1)]
    both = found_of({"method": "fedavg_ft"}, runs=[*RUNS, *more])
    assert [dict(one.task) for one in both] == [
        {"adapt.num_images": "16"},
        {"adapt.num_images": "64"},
    ]
    where = {"where": {"adapt.num_images": 64.0}}
    (one,) = found_of({"method": "fedavg_ft"} | where, runs=[*RUNS, *more])
    assert one.effect is not None
    assert (one.effect.num, one.effect.mean) == (2, 0.0)


def test_a_method_is_compared_with_itself_at_other_settings() -> None:
    """Within each task, and both sides at the better of their rates."""

    def guided(scales: str, rate: str, seed: int, kid: float, images: int = 16) -> TrackedRun:
        one = run("spire", seed, kid, 0.2, images)
        return replace(one, params=one.params | {"adapt.guidance": scales, "adapt.lr": rate})

    runs = [guided("None", "0.1", s, 1.0 + s) for s in range(3)]
    runs += [guided("None", "0.02", s, 9.0) for s in range(3)]
    runs += [guided("(1.0, 2.0)", "0.02", s, (1.0 + s) / 2) for s in range(3)]
    runs += [guided("(1.0, 2.0)", "0.1", s, 8.0) for s in range(3)]
    runs += [guided("None", "0.1", s, 1.0, 64) for s in range(3)]
    sides = {"where": {"adapt.guidance": [1.0, 2.0]}, "against_where": {"adapt.guidance": None}}
    one, blank = found_of({"method": "spire"} | sides, runs=runs)
    assert (dict(blank.task), blank.effect) == ({"adapt.num_images": "64"}, None)  # one side alone
    assert one.p is not None
    assert one.holm_p == pytest.approx(2 * one.p)
    assert dict(one.task) == {"adapt.num_images": "16"}
    assert one.effect is not None
    assert (one.effect.num, one.effect.mean) == (3, pytest.approx(-math.log(2)))
    (answer,) = primary_answers([one])
    words = "at adapt.guidance=[1.0, 2.0], spire against spire at adapt.guidance=None: lower (ratio"
    assert words in answer
    table = primary_table([one])
    assert table is not None
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["against"] == "spire at adapt.guidance=None"


def test_families_are_corrected_apart() -> None:
    values = [{"method": "fedavg_ft", "measure": measure} for measure in (KID, TV)]
    both = found_of(*values)
    ps = [one.p for one in both]
    assert [one.holm_p for one in both] == holm(ps)
    assert [one.holm_p for one in both] != ps
    apart = found_of(values[0] | {"family": "kid"}, values[1] | {"family": "tv"})
    assert [one.holm_p for one in apart] == ps
    assert "Holm of 1" in primary_answers(apart)[0]


def test_a_share_of_nearest_images_is_held_against_its_chance() -> None:
    """Fewer training images are nearest to fewer, with nothing memorised."""
    pairs = [("fedavg_ft", 0.0250, 0.0245), ("spire", 0.0305, 0.0300)]
    runs = [
        replace(one, finals=one.finals | {NN_SHARE: share, NN_CHANCE: chance})
        for method, share, chance in pairs
        for one in (run(method, seed, 1.0, 0.2) for seed in range(3))
    ]
    (one,) = found_of(
        {"method": "fedavg_ft", "measure": NN_EXCESS, "scale": "difference"}, runs=runs
    )
    assert one.effect is not None
    assert one.effect.mean == pytest.approx(0.0)
    (share,) = found_of(
        {"method": "fedavg_ft", "measure": NN_SHARE, "scale": "difference"}, runs=runs
    )
    assert share.effect is not None
    assert share.effect.mean == pytest.approx(-0.0055)


def test_nobody_chooses_a_rate_by_the_share_of_copies() -> None:
    """Full fine-tuning stands at the rate of the lower KID, though its share is higher there."""
    shares = {("fedavg_ft", "0.1"): (1.0, 0.5), ("fedavg_ft", "0.2"): (2.0, 0.3)}
    shares |= {("spire", "0.1"): (1.0, 0.2)}
    runs = []
    for (method, rate), (kid, share) in shares.items():
        for seed in range(3):
            one = run(method, seed, kid, 0.2)
            params = one.params | {"adapt.lr": rate}
            finals = one.finals | {NN_SHARE: share, NN_CHANCE: 0.1}
            runs.append(replace(one, run_id=one.run_id + rate, params=params, finals=finals))
    for measure in (NN_SHARE, NN_EXCESS):
        (one,) = found_of(
            {"method": "fedavg_ft", "measure": measure, "scale": "difference"}, runs=runs
        )
        assert one.effect is not None
        assert one.effect.mean == pytest.approx(0.3)


def test_lists_of_whole_numbers_are_those_of_runs() -> None:
    side = Side("spire", {"adapt.guidance": [1, 2]})
    assert side.fits("spire", {"adapt.guidance": "(1.0, 2.0)"})
    for other in ("(1.0, 3.0)", "(1.0,)", "None", "(1.0, 2.0, 3.0)"):
        assert not side.fits("spire", {"adapt.guidance": other})


def test_scores_without_a_ratio_are_not_compared_by_one() -> None:
    below = [run("spire", seed, 0.1 - 0.1 * seed, 0.2) for seed in range(2)]
    (one,) = found_of({"method": "fedavg_ft"}, runs=[*below, *RUNS[4:]])
    assert one.effect is None
    (answer,) = primary_answers([one])
    assert answer.endswith(": scores are not above zero on 1 seed, so there is no ratio.")
    below = [run("spire", seed, -0.1, 0.2) for seed in range(3)]
    runs = [*below, *(replace(one, finals={KID: 0.0}) for one in RUNS[4:])]
    (answer,) = primary_answers(found_of({"method": "fedavg_ft"}, runs=runs))
    assert answer.endswith(": scores are not above zero on 3 seeds, so there is no ratio.")
    (one,) = found_of({"method": "fedavg_ft", "scale": "difference"}, runs=runs)
    assert one.effect is not None
    assert one.effect.num == 3


def test_a_seed_that_is_in_no_pair_costs_no_ratio() -> None:
    more = replace(run("fedavg_ft", 9, -0.0003, 0.2))
    (one,) = found_of({"method": "fedavg_ft"}, runs=[*RUNS, more])
    (expected,) = found_of({"method": "fedavg_ft"})
    assert one.effect == expected.effect is not None


def test_lists_of_texts_are_those_of_runs() -> None:
    side = Side("shared_rep", {"method.local_layers": ["norm_out", "conv_out"]})
    assert side.fits("shared_rep", {"method.local_layers": "('norm_out', 'conv_out')"})
    assert not side.fits("shared_rep", {"method.local_layers": "('norm_out',)"})
    alone = Side("shared_rep", {"method.local_layers": ["norm_out"]})
    assert alone.fits("shared_rep", {"method.local_layers": "('norm_out',)"})


@pytest.mark.parametrize("key", ["seed", "resources.pool"])
def test_where_names_nothing_that_all_seeds_share(key: str) -> None:
    found = primaries([{"method": "fedavg_ft", "where": {key: 0}}])
    with pytest.raises(ConfigError, match=f"settings that tell runs apart .* got '{key}'"):
        check_primaries(found)


@pytest.mark.parametrize(
    "key", ["data.path", "model.backbone", "eval.extractor_weights", "eval.grid_images"]
)
def test_where_names_nothing_that_no_run_records(key: str) -> None:
    found = primaries([{"method": "fedavg_ft", "against_where": {key: None}}])
    with pytest.raises(ConfigError, match=f"settings that runs record .* got '{key}': no run"):
        check_primaries(found)


@pytest.mark.parametrize("measure", ["final/adapt_forgetting_global", NN_EXCESS, FLD_EXCESS])
def test_what_may_be_zero_has_no_ratio(measure: str) -> None:
    one = {"method": "fedavg_ft", "measure": measure}
    with pytest.raises(ConfigError, match=f"expected scale: difference .* of {measure}, got ratio"):
        check_primaries(primaries([one]))
    check_primaries(primaries([one | {"scale": "difference"}]))


def test_a_ratio_has_no_difference_since_0_stands_for_none() -> None:
    one = {"method": "fedavg_ft", "measure": COVERED_RATIO}
    with pytest.raises(ConfigError, match=f"expected scale: ratio .* of {COVERED_RATIO}, got diff"):
        check_primaries(primaries([one | {"scale": "difference"}]))
    check_primaries(primaries([one]))


def test_answers_say_that_they_are_primary() -> None:
    found = found_of({"method": "fedavg_ft"}, {"method": "local"})
    first, second = primary_answers(found)
    assert first.startswith("Primary: new clients' KID, fedavg_ft against spire: higher (ratio 2.0")
    assert "4 pairs; p " in first
    assert "Holm of 2 " in first
    assert "within 10 %: p " in first
    assert second.endswith("local against spire: there are no such pairs of runs.")
    table = primary_table(found)
    assert table is not None
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert (row["method"], row["pairs"], row["Holm"]) == ("fedavg_ft", 4, found[0].holm_p)
    assert primary_table([]) is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"method": "ditto"}, "primary method as one of spire, .*, got 'ditto'"),
        ({"method": "spire"}, "method and against that differ, not both spire"),
        (
            {"method": "spire", "against_where": {}},
            "not both spire, got spire: .* in against_where",
        ),
        ({"method": "local", "measure": "kid"}, "primary measure as one of final/"),
        ({"method": "local", "margin": 0}, "a primary margin above 0, got 0"),
        ({"method": "local", "scale": "log"}, "primary scale as one of ratio, difference"),
        ({"method": "local", "seeds": 3}, "seeds"),
        (
            {
                "method": "local",
                "measure": HELDOUT,
                "where": {"diffusion.prediction": "v"},
                "against_where": {"diffusion.prediction": "eps"},
            },
            "held-out loss with the same diffusion.prediction, got",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(value: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        primaries([value])


def test_a_verdict_on_fewer_seeds_than_planned_says_so() -> None:
    """A look at a study before its end, or a seed that is lost, is no finished test."""
    for num_seeds, verdict in (
        (0, "higher"),  # nobody knows how many were planned
        (4, "higher"),
        (8, "higher on 4 of 8 seeds"),
    ):
        [found] = findings(
            primaries([{"method": "fedavg_ft"}]), group_runs(RUNS), KID, num_seeds=num_seeds
        )
        [answer] = primary_answers([found])
        assert f": {verdict} (ratio " in answer
        assert found.verdict == verdict


def test_a_comparison_is_named_once() -> None:
    with pytest.raises(ConfigError, match="different primary comparisons"):
        primaries([{"method": "local"}, {"method": "local"}])
    assert primaries([]) == []
    assert primaries([{"method": "local"}]) == [Primary(method="local")]


def study(*values: dict, **axes: list) -> tuple[list[Primary], list[Run]]:
    """Return comparisons, and the runs that a study with these axes plans."""
    configs = planned_configs(SweepConfig(name="study", preset="smoke", axes=axes))
    return primaries(values), [run_of(config) for config in configs]


RATES = [{"method": "spire"}, {"method": "fedavg_ft", "adapt.lr": 0.1}]


def test_tasks_that_have_not_run_yet_count_as_well() -> None:
    """Their number must not grow while a study runs, or a certain finding could be taken back."""
    sixteen = {"method": "fedavg_ft", "where": {"adapt.num_images": 16}}
    compared, planned = study(
        {"method": "fedavg_ft"}, sixteen, rate=RATES, **{"adapt.num_images": [1, 4, 16]}
    )
    own = [
        replace(one, params=one.params | {"adapt.num_images": number})
        for number in ("4", "16")
        for one in RUNS
    ]
    whole = findings(compared, group_runs(own), KID, planned)
    part = findings(compared, group_runs(own[: len(RUNS)]), KID, planned)
    assert len(whole) == len(part) == 4
    assert [dict(one.task).get("adapt.num_images") for one in whole] == ["4", "16", "1", "16"]
    assert sum(one.p is None for one in whole) == 1
    assert sum(one.p is None for one in part) == 3
    known = [one for one in part if one.p is not None]
    assert [one.holm_p for one in known] == pytest.approx([4 * (one.p or 0.0) for one in known])
    told = primary_answers(part)
    assert len(set(told)) == len(told)


WORLDS = [
    {"federation.num_clients": 24, "partition.name": "iid"},
    {"federation.num_clients": 24},  # pathological, as in the preset
    {"federation.num_clients": 30},
]


def test_a_planned_task_is_that_of_a_whole_trial() -> None:
    """Worlds that differ by what one of them leaves at the preset's are two, and no others."""
    pairs = {"method": "fedavg_ft", "where": {"partition.name": "pathological"}}
    compared, planned = study({"method": "fedavg_ft"}, pairs, world=WORLDS, rate=RATES)
    everywhere, some = (planned_tasks(one, planned) for one in compared)
    assert [tuple(task.values()) for task in everywhere] == [
        ("24", "iid"),
        ("24", "pathological"),
        ("30", "pathological"),
    ]
    assert some == everywhere[1:]
    ran = [
        replace(one, params=dict(params) | one.params)
        for one in RUNS
        for method, params in planned
        if method == one.params["method.name"] and params["partition.name"] == "pathological"
    ]
    found = findings(compared, group_runs(ran), KID, planned)
    assert [one.effect is None for one in found] == [False, False, True, False, False]
    assert dict(found[2].task)["partition.name"] == "iid"


def test_held_out_losses_of_different_targets_are_not_compared() -> None:
    """A loss is the error of what the network predicts, whose scale is another one."""
    alike = [replace(one, finals=one.finals | {HELDOUT: one.finals[KID]}) for one in RUNS]
    loss = {"method": "fedavg_ft", "measure": HELDOUT}
    (known,) = found_of(loss, runs=alike)
    key, other = "diffusion.prediction", list[TrackedRun]()
    for one in alike:
        prediction = "eps" if one.params["method.name"] == "fedavg_ft" else "v"
        other.append(replace(one, params=one.params | {key: prediction}))
    (unknown, kid) = found_of(loss, {"method": "fedavg_ft"}, runs=other)
    assert known.effect is not None
    assert unknown.effect is None
    assert kid.effect == known.effect
    alone = [replace(one, finals={HELDOUT: one.finals[HELDOUT]}) for one in other]
    assert len({group.task for group in group_runs(alone)}) == 2  # nothing else to compare by
    assert len({group.task for group in group_runs(other)}) == 1


def test_what_no_run_shows_is_no_task_of_its_own_and_a_search_plans_none() -> None:
    axes = {"privacy.adapt.epsilon": [8, None], "data.path": ["a", "b"], "model.d_emb": [4, 8]}
    (one,), planned = study({"method": "fedavg_ft"}, rate=RATES, **axes)
    assert planned_tasks(one, planned) == [
        {"privacy.adapt.epsilon": "8.0"},
        {"privacy.adapt.epsilon": "None"},
    ]
    assert planned_tasks(one, []) == []
    drawn = SweepConfig(name="a", search="optuna", num_trials=2, axes={"client.lr": [0.1, 0.2]})
    assert planned_configs(drawn) == []


def test_a_method_stands_in_all_tasks_that_differ_in_what_it_does_not_read() -> None:
    """FedAvg adapts nothing, so that a budget of adaptation is nothing to it."""
    budget = "privacy.adapt.epsilon"
    how = [{"method": "spire", budget: epsilon} for epsilon in (8, 1, None)]
    at_8 = {"method": "fedavg", "where": {budget: 8}}
    compared, planned = study({"method": "fedavg"}, at_8, how=[*how, {"method": "fedavg"}])
    assert [len(planned_tasks(one, planned)) for one in compared] == [3, 1]
    runs = [run("fedavg", seed, 0.1 * factor, 0.2) for seed, factor in enumerate(FACTORS)]
    runs = [replace(one, params={**one.params, budget: "None"}) for one in runs]
    for seed, (epsilon, kid) in itertools.product(range(4), (("8.0", 0.1), ("1.0", 0.2))):
        one = run("spire", seed, kid, 0.2)
        runs.append(replace(one, params={**one.params, budget: epsilon}))
    logs = {"8.0": [math.log(f) for f in FACTORS], "1.0": [math.log(f / 2) for f in FACTORS]}
    for when in (planned, []):
        found = findings(compared, group_runs(runs), KID, when)
        assert len(found) == 3 + bool(when)  # without a budget SPIRE has not run yet
        known = [one for one in found if one.effect is not None]
        assert [dict(one.task)[budget] for one in known] == ["1.0", "8.0", "8.0"]
        for one in known:
            assert one.effect is not None
            assert one.effect.mean == pytest.approx(sum(logs[dict(one.task)[budget]]) / 4)
    for begun in (runs[:4], runs[4:], [one for one in runs if one.params[budget] != "8.0"]):
        assert len(findings(compared, group_runs(begun), KID, planned)) == 4  # as at the end
