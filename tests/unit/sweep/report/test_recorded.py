"""Primary comparisons are of the runs that a sweep planned: none that was added later decides."""

from dataclasses import replace

import pytest

from pipeline.config.load import write_value
from pipeline.results.params import default_params
from pipeline.tracking.mlflow_queries import TrackedRun
from sweeps.report.groups import group_runs
from sweeps.report.primary import Finding
from sweeps.report.recorded import recorded_findings

KID = "final/adapt_kid_after"
AXES = {
    "rate": [{"method": "spire", "adapt.lr": 0.02}, {"method": "fedavg_ft", "adapt.lr": 0.001}],
    "adapt.num_images": [4, 16],
}
STUDY = {"name": "study", "preset": "smoke", "seeds": [0, 1, 2], "axes": AXES}
STUDY |= {"primary": [{"method": "fedavg_ft"}]}
LATER = "that were added to the sweep after it had recorded these."


def file_of(**changes: object) -> str:
    return write_value(STUDY | changes)


def run(method: str, seed: int, kid: float, **settings: str) -> TrackedRun:
    rate = "0.02" if method == "spire" else "0.001"
    own = {"method.name": method, "seed": str(seed), "adapt.lr": rate, "adapt.num_images": "4"}
    params = {**default_params(), **own, **{k.replace("__", "."): v for k, v in settings.items()}}
    tags = {"partition_hash": f"p{seed}"}
    return TrackedRun(f"{method}{seed}{settings}", "", "FINISHED", params, tags, {KID: kid}, 0)


def both(seeds: range = range(3), factor: float = 2.0, **settings: str) -> list[TrackedRun]:
    spire = [run("spire", seed, 1.0 + seed, **settings) for seed in seeds]
    theirs = [(seed, (1.0 + seed) * (factor + seed / 10)) for seed in seeds]
    return spire + [run("fedavg_ft", seed, kid, **settings) for seed, kid in theirs]


PLANNED = both() + both(adapt__num_images="16", factor=3.0)
RATES = [run("fedavg_ft", seed, 0.1, adapt__lr="0.3") for seed in range(3)]


def findings_of(runs: list[TrackedRun], file: str = "") -> tuple[list[Finding], list[str]]:
    return recorded_findings(file or file_of(), group_runs(runs))


def test_runs_that_are_planned_are_all_compared() -> None:
    found, notes = findings_of(PLANNED)
    assert [dict(one.task)["adapt.num_images"] for one in found] == ["4", "16"]
    assert [one.verdict for one in found] == ["higher", "higher"]
    assert notes == []
    assert findings_of(PLANNED, "name: run") == ([], [])
    assert recorded_findings("", group_runs(PLANNED)) == ([], [])


@pytest.mark.parametrize(
    "added",
    [
        both(range(3, 6), factor=0.1),  # seeds
        RATES,  # another value on an axis, which would be the best one
        both(adapt__num_images="64"),  # another task, which would be another test of the family
        both(factor=0.1, adapt__draws="4"),  # a value on an axis of its own
        [run("shared_rep", seed, 0.1) for seed in range(3)],
    ],
)
def test_added_runs_change_no_finding_and_are_counted(added: list[TrackedRun]) -> None:
    expected, _ = findings_of(PLANNED)
    found, (note,) = findings_of(PLANNED + added)
    assert found == expected
    assert (
        note == f"Primary comparisons leave out {len(added)} runs on seeds or at settings {LATER}"
    )


def test_added_runs_alone_are_none_of_a_plan() -> None:
    """Nothing varies: an axis of the file says so, or the tag of the axis that they had."""
    on_an_axis = both(adapt__num_images="64")
    tagged = both(adapt__draws="4")
    tagged = [replace(one, tags={**one.tags, "axis.adapt.draws": "4"}) for one in tagged]
    for added in (on_an_axis, tagged):
        found, (note,) = findings_of(added)
        assert [one.effect for one in found] == [None, None]
        assert f"leave out {len(added)} runs" in note
    (one,) = findings_of(PLANNED + RATES[:1])[1]
    assert "leave out 1 run on" in one


def test_a_run_counts_at_another_value_of_what_makes_no_difference_to_it() -> None:
    """Fine-tuning reads no size of an embedding; without a budget no clip norm counts."""
    axes = {"rate": AXES["rate"], "privacy.adapt.epsilon": [8, None]}
    axes |= {"model.d_emb": [8, 16], "privacy.adapt.clip_norm": [0.5, 1.0]}
    runs = both(model__d_emb="8", privacy__adapt__clip_norm="1.0", adapt__num_images="16")
    runs += both(range(1), model__d_emb="32", privacy__adapt__clip_norm="3.0")
    file = file_of(axes=axes, settings={"adapt.num_images": 16})
    _, (note,) = findings_of(runs, file)
    assert "leave out 2 runs" in note  # with 4 images
    runs = [one for one in runs if one.params["adapt.num_images"] == "16"]
    other = [replace(r, params={**r.params, "privacy.adapt.clip_norm": "3.0"}) for r in runs[:1]]
    _, notes = findings_of(other + runs[1:], file)
    assert notes == []
    private = [replace(r, params={**r.params, "privacy.adapt.epsilon": "4.0"}) for r in runs[:1]]
    _, (note,) = findings_of(private + runs[1:], file)
    assert "leave out 1 run" in note


def test_a_setting_that_nobody_varies_is_not_held_against_older_runs() -> None:
    """A default of today is not that of the day on which a sweep began."""
    old = [replace(one, params={**one.params, "client.prox_mu": "0.125"}) for one in PLANNED]
    found, notes = findings_of(old)
    assert (len(found), notes) == (2, [])
    assert found == findings_of(PLANNED)[0]


def test_a_recorded_file_that_is_refused_by_now_is_a_note() -> None:
    (found,), notes = findings_of(both(range(4)) + RATES, file_of(preset="gone"))
    assert found.effect is not None
    assert found.effect.num == 3  # seeds are known
    assert notes[0].startswith("Primary comparisons are not corrected for tasks that have not run,")
    assert "preset" in notes[0]
    assert "leave out 2 runs" in notes[1]


@pytest.mark.parametrize(
    "entry", [{"measure": "final/adapt_gone"}, {"gone": 1}, {"method": "gone"}]
)
def test_a_recorded_comparison_that_is_unknown_by_now_is_a_note(entry: dict) -> None:
    found, (note,) = findings_of(PLANNED, file_of(primary=[entry]))
    assert found == []
    assert note.startswith("Primary comparisons are not among these tables: expected ")
