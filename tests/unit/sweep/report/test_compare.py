"""Tasks, best settings and comparisons of runs that are written out by hand, and of a study."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from pipeline.results.metric_names import COPIES_TAGS, COVERED_RATIO, IMAGE_TAGS, NN_SHARE
from sweeps.primary import HELDOUT, TUNED_KID, primaries
from sweeps.report.compare import (
    along,
    axes,
    axis_sentence,
    best_settings,
    comparisons,
    differences,
    method_sentence,
)
from sweeps.report.runs import experiments, frame_of

KID = "final/adapt_kid_after"
STUDIES = Path(__file__).parents[4] / "sweeps" / "studies"


def finished(
    name: str,
    params: dict[str, str],
    tags: dict[str, str],
    finals: dict[str, float],
    began: int = 0,
) -> Any:
    """A finished run as MLflow has it."""
    info = {"run_id": name, "run_name": name, "status": "FINISHED", "experiment_id": ""}
    about = SimpleNamespace(**info, start_time=began, end_time=None)
    return SimpleNamespace(
        info=about, data=SimpleNamespace(params=params, tags=tags, metrics=finals)
    )


def run(method: str, seed: int, kid: float | None, began: int = 0, **more: Any) -> Any:
    """A finished run; `more` are settings (with __ for a dot), `tags` and `finals`."""
    tags = {"partition_hash": f"p{seed}", **more.pop("tags", {})}
    finals = ({} if kid is None else {KID: kid}) | more.pop("finals", {})
    settings = {key.replace("__", "."): str(value) for key, value in more.items()}
    params = {"method.name": method, "seed": str(seed), **settings}
    name = f"{method}-{seed}-{settings}-{began}"
    return finished(name, params, tags, finals, began)


def runs(*several: Any) -> pd.DataFrame:
    return experiments(frame_of(several))


def settings(found: pd.DataFrame) -> dict[str, str]:
    return {method: own.setting.iloc[0] for method, own in found.groupby("method")}


# --- tasks and settings ---------------------------------------------------------------------------


def test_what_makes_scores_incomparable_is_a_task_and_the_rest_a_setting() -> None:
    found = runs(
        run("spire", 0, 1.0, federation__num_clients=24, model__d_emb=16),
        run("spire", 0, 1.0, federation__num_clients=24, model__d_emb=4),
        run("spire", 0, 1.0, federation__num_clients=8, model__d_emb=16),
        run("fedavg_ft", 0, 1.0, federation__num_clients=8, model__d_emb=16, client__group_size=4),
    )
    assert [*zip(found.task, found.method, found.setting, strict=True)] == [
        ("num_clients=8", "spire", "model.d_emb=16"),
        ("num_clients=8", "fedavg_ft", ""),  # it has no embedding to size
        ("num_clients=24", "spire", "model.d_emb=4"),
        ("num_clients=24", "spire", "model.d_emb=16"),
    ]


def test_the_later_of_two_equal_runs_counts_and_no_number_is_in_no_mean() -> None:
    found = runs(run("spire", 0, 1.0, began=2), run("spire", 0, 9.0, began=1))
    assert [*found[KID]] == [1.0]
    found = runs(run("spire", 0, 1.7976931348623157e308), run("spire", 1, 2.0))
    assert found[KID].mean() == 2.0


# --- best settings --------------------------------------------------------------------------------


def test_the_best_setting_has_the_lowest_mean_of_those_with_the_most_seeds() -> None:
    found = runs(
        *(run("spire", seed, 1.0 + seed, adapt__lr=0.1) for seed in (0, 1)),
        *(run("spire", seed, 0.9 + seed, adapt__lr=0.2) for seed in (0, 1)),
        run("spire", 0, 0.1, adapt__lr=0.3),
    )
    assert settings(best_settings(found)) == {"spire": "adapt.lr=0.2"}


def test_a_seed_that_is_hard_for_all_speaks_against_nobody() -> None:
    found = runs(
        *(run("spire", seed, kid, adapt__lr=0.1) for seed, kid in ((0, 1.0), (1, 1.0))),
        *(run("spire", seed, kid, adapt__lr=0.2) for seed, kid in ((1, 0.9), (2, 9.0))),
    )
    assert settings(best_settings(found)) == {"spire": "adapt.lr=0.2"}


def test_a_share_that_is_read_is_best_where_it_is_highest() -> None:
    read = "final/adapt_prompt_accuracy_after"
    found = runs(*(run("spire", 0, 1.0, adapt__lr=lr, finals={read: lr}) for lr in (0.1, 0.3, 0.2)))
    assert settings(best_settings(found, read)) == {"spire": "adapt.lr=0.3"}


# --- methods and axes -----------------------------------------------------------------------------


def three_seeds(method: str, *kids: float, **more: Any) -> list[Any]:
    return [run(method, seed, kid, **more) for seed, kid in enumerate(kids)]


def test_who_is_ahead_by_how_much_and_how_sure() -> None:
    found = runs(
        *three_seeds("spire", 1.0, 2.0, 3.0),
        *three_seeds("fedavg_ft", 2.0, 4.1, 6.0),
        *three_seeds("local", 1.0, 2.5, 2.9),
    )
    said = method_sentence(found)
    assert said.startswith("spire is ahead with a KID of new clients of 2.00. Against spire on the")
    assert re.search(r"fedavg_ft 2\.02 \[1\.\d+, 2\.\d+\] times as high, worse", said)
    assert re.search(r"local 1\.07 \[0\.\d+, 1\.\d+\] times as high, no difference was found", said)
    told = differences(found, [KID]).set_index("method")
    assert dict(told.verdict) == {"fedavg_ft": "worse", "local": "no difference was found"}
    few = method_sentence(found[found.seed < 2])
    assert "fedavg_ft 2.02 times as high;" in few, "two seeds have no verdict"


def test_settings_that_move_together_are_one_axis_also_steps_and_epochs() -> None:
    periods = {"3": {}, "12": {}, "None": {"federation__local_epochs": "2"}}
    found = runs(
        *(
            run("spire", 0, kid * lr, **more, federation__tau=tau, adapt__lr=lr, server__lr=kid)
            for (tau, more), kid in zip(periods.items(), (1.0, 4.0, 2.0), strict=True)
            for lr in (1, 3)
        )
    )
    assert axes(found) == ["federation.tau", "adapt.lr"]
    here = along(found, "federation.tau")
    assert [*here["at"]] == ["3", "12", "local_epochs=2"]
    assert axis_sentence(here) == "Best: spire at 3 (12: 4.00 times as high)."


def test_on_an_axis_each_place_is_at_the_best_of_the_other_settings() -> None:
    found = runs(
        *(
            run("spire", seed, kid + seed, model__d_emb=d_emb, adapt__lr=lr)
            for seed in range(3)
            for d_emb, lr, kid in ((4, 0.1, 4.0), (64, 0.1, 1.0), (4, 0.2, 2.0), (64, 0.2, 3.0))
        ),
        *three_seeds("local", 5.0, 5.0, 5.0),
    )
    here = along(found, "model.d_emb")
    means = here.groupby("at", sort=False)[KID].mean()
    assert dict(means) == {"4": 3.0, "64": 2.0}
    assert [*means.index] == ["4", "64"], "in the order of numbers"
    assert re.match(r"Best: spire at 64 \(4: 1\.5\d \[.*\] times as high\)\.$", axis_sentence(here))


# --- comparisons that a sweep's file wrote down ---------------------------------------------------


def worlds() -> pd.DataFrame:
    """The runs of study-worlds-cpu out of its rows, with the scores that its file compares."""
    rows = pd.read_parquet(STUDIES / "study-worlds-cpu.parquet")
    settings = [c for c in rows if "." in c and rows[c].dtype == "str"]
    keys = ["method", "seed", "partition_hash", *settings]
    new, tuned = rows[rows.clients == "new"], rows[rows.clients == "tuned"]
    mean = new.groupby(keys, dropna=False).mean(numeric_only=True)
    found = mean[["kid_after", "heldout_after", "nn_share", "forgetting_global"]].copy()
    found.columns = [KID, HELDOUT, NN_SHARE, "final/adapt_forgetting_global"]
    found[TUNED_KID] = tuned.groupby(keys, dropna=False).kid.mean()
    kids = {
        covered: own.groupby(keys, dropna=False).kid_after.mean()
        for covered, own in new.groupby(new.hull_tv < 0.05)
    }
    found[COVERED_RATIO] = kids[True] / kids[False]
    runs = []
    for place, row in enumerate(found.reset_index().to_dict("records")):
        finals = {key: value for key, value in row.items() if "/" in key and value == value}
        params = {"method.name": row["method"], "seed": str(row["seed"])}
        params |= {key: row[key] for key in settings if row[key] == row[key]}
        tags = {"partition_hash": row["partition_hash"]}
        for tag, key in (COPIES_TAGS | IMAGE_TAGS).items():  # of a run these are tags
            tags |= {tag: str(finals.pop(key))} if key in finals else {}
        runs.append(finished(str(place), params, tags, finals))
    return experiments(frame_of(runs))


def test_a_study_finds_what_was_published() -> None:
    """Ratios with intervals, and p-values after Holm's correction within the families."""
    recorded = yaml.safe_load((STUDIES / "study-worlds-cpu.yaml").read_text())["primary"]
    found = comparisons(primaries(recorded), worlds())
    assert len(found) == len(recorded)
    new = found[found.family == "new clients"]
    said = [f"{row.middle:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in new.itertuples()]
    assert said[1:] == [
        "1.99 [1.75, 2.26]",
        "1.22 [1.09, 1.38]",
        "0.94 [0.77, 1.15]",
        "1.10 [0.95, 1.28]",
    ]
    families = {
        family: " ".join(f"{p:.0e}" for p in own.Holm)
        for family, own in found.groupby("family", sort=False)
    }
    assert families == {
        "new clients": "1e-03 2e-05 1e-02 5e-01 3e-01",
        "robustness": "4e-06 2e-05 4e-04 2e-05 3e-06 5e-07 1e-04 1e-07",
        "pre-training": "1e-03 5e-01 6e-02 5e-01",
        "forgetting": "9e-08 2e-07 9e-08 2e-06",
    }
    digits = [f"{p:.2g}" for p in found.Holm[found.family.isin(["new clients", "pre-training"])]]
    assert digits == ["0.0012", "2e-05", "0.015", "0.5", "0.32", "0.0011", "0.48", "0.062", "0.48"]
    differences = found[found.scale == "difference"].iloc[[0, 4]].itertuples()
    assert [f"{d.effect:.3f} {d.half:.3f}" for d in differences] == ["0.078 0.010", "2.168 0.192"]
    assert [*new.verdict][1:] == ["higher"] * 2 + ["no difference was found"] * 2


def test_each_side_stands_at_its_best_by_the_compared_score() -> None:
    """Fine-tuning at 0.001 is nearer to the true images; at 0.0001 more prompts are read."""
    distance, read = "final/adapt_style_distance_after", "final/adapt_prompt_accuracy_after"
    found = runs(
        *(
            run(method, seed, 1.0, adapt__lr=lr, finals={distance: first, read: second})
            for seed in (0, 1)
            for method, lr, first, second in (
                ("spire", 0.02, 0.2, 0.6),
                ("fedavg_ft", 0.001, 0.1, 0.4),
                ("fedavg_ft", 0.0001, 0.3, 0.55),
            )
        )
    )
    told = [
        {"method": "fedavg_ft", "measure": measure, "scale": "difference"}
        for measure in (distance, read)
    ]
    assert [*comparisons(primaries(told), found).effect] == pytest.approx([-0.1, -0.05])


def test_a_comparison_without_runs_counts() -> None:
    found = runs(*three_seeds("spire", 1.0, 2.0, 3.0), *three_seeds("fedavg_ft", 1.1, 2.3, 3.2))
    told = comparisons(primaries([{"method": "fedavg_ft"}, {"method": "local"}]), found)
    assert told.Holm[0] == pytest.approx(2 * told.p[0])
    assert np.isnan(told.Holm[1])
    assert [*told.verdict][1] == ""


def test_a_comparison_is_made_in_every_task_and_matches_within_its_margin() -> None:
    tv = "final/adapt_tv_after"
    found = runs(
        *(
            run(
                method,
                seed,
                1.0,
                adapt__num_images=images,
                finals={tv: 0.2 + seed / 10 + (method == "local") * 0.001 * (-1) ** seed},
            )
            for method in ("spire", "local")
            for seed in range(4)
            for images in (4, 16)
        )
    )
    wide = {"method": "local", "measure": tv, "scale": "difference", "margin": 0.01}
    told = comparisons(primaries([wide, wide | {"margin": 0.0005, "family": "strict"}]), found)
    assert [*told.task] == ["adapt.num_images=4", "adapt.num_images=16"] * 2
    assert [*told.verdict] == ["matches"] * 2 + ["no difference was found"] * 2
