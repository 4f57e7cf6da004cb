"""New clients along their epochs: differences by hand, and what is drawn of rates and epochs."""

from dataclasses import replace

from pipeline.tracking.mlflow_queries import TrackedRun
from sweeps.report.epochs import epochs_table, rate_pictures
from sweeps.report.figures import KID_EPOCHS
from sweeps.report.groups import group_runs
from sweeps.report.series import curves
from sweeps.report.stats import Estimate
from sweeps.report.tables import cell_text

CURVES = {  # KID after 8 and 16 epochs, on seeds 0 and 1
    ("spire", "0.02"): [(0.9, 0.5), (1.1, 0.7)],
    ("spire", "0.1"): [(0.4, 0.6), (0.6, 0.8)],
    ("fedavg_ft", "0.001"): [(0.7, 0.3), (0.9, 0.5)],
}


def run(method: str, seed: int, rate: str) -> TrackedRun:
    told = {"method.name": method, "seed": str(seed), "adapt.lr": rate}
    name = f"{method}-{rate}-{seed}"
    return TrackedRun(name, name, "FINISHED", told, {"partition_hash": f"p{seed}"}, {}, 0)


def curve(*points: tuple[float, float]) -> dict[str, list[tuple[float, float]]]:
    return {KID_EPOCHS: list(points)}


def test_each_method_stands_at_its_best_rate_for_that_many_epochs() -> None:
    runs = [run(method, seed, rate) for method, rate in CURVES for seed in (0, 1)]
    histories = {
        f"{method}-{rate}-{seed}": curve((0, 2.0), (8, own[seed][0]), (16, own[seed][1]))
        for (method, rate), own in CURVES.items()
        for seed in (0, 1)
    }
    table = epochs_table(group_runs(runs), histories)
    assert table is not None
    found = [
        (epochs, method, setting, kid.mean, less and round(less.mean, 9), told)
        for method, setting, epochs, kid, less, _, told in table.rows
        if isinstance(kid, Estimate) and (less is None or isinstance(less, Estimate))
    ]
    assert found == [
        ("8", "spire", "adapt.lr=0.1", 0.5, None, None),
        ("8", "fedavg_ft", "adapt.lr=0.001", 0.8, 0.3, "higher"),
        ("16", "spire", "adapt.lr=0.02", 0.6, None, None),
        ("16", "fedavg_ft", "adapt.lr=0.001", 0.4, -0.2, "lower"),
    ]


def test_a_setting_that_lacks_a_seed_is_not_the_best() -> None:
    runs = [run("spire", 0, "0.1"), run("spire", 0, "0.02"), run("spire", 1, "0.02")]
    runs += [run("fedavg_ft", seed, "0.001") for seed in (0, 1)]
    histories = {r.run_id: curve((8, 1.0), (16, 1.0)) for r in runs}
    histories["spire-0.1-0"] = curve((8, 0.1), (16, 0.1))
    table = epochs_table(group_runs(runs), histories)
    assert table is not None
    assert [row[1] for row in table.rows if row[0] == "spire"] == ["adapt.lr=0.02"] * 2


def test_a_seed_whose_curve_ends_early_shows() -> None:
    runs = [run(method, seed, "0.1") for method in ("spire", "local") for seed in (0, 1)]
    histories = {r.run_id: curve((8, 1.0), (16, 1.0)) for r in runs}
    histories["local-0.1-1"] = curve((8, 1.0))
    table = epochs_table(group_runs(runs), histories)
    assert table is not None
    assert [(*row[:2], cell_text(row[2]), row[4]) for row in table.rows] == [
        ("spire", "8", "1", None),
        ("local", "8", "1", 2),
        ("spire", "16", "1", None),
        ("local", "16", "1 (n=1)", 1),
    ]


def test_there_is_nothing_to_compare_without_spire_or_a_second_number_of_epochs() -> None:
    both = [run(method, 0, "0.1") for method in ("spire", "fedavg_ft")]
    once = {r.run_id: curve((0, 2.0), (32, 1.0)) for r in both}
    twice = {r.run_id: curve((8, 2.0), (32, 1.0)) for r in both}
    assert epochs_table(group_runs(both), once) is None
    assert epochs_table(group_runs(both[:1]), twice) is None
    assert epochs_table(group_runs(both[1:]), twice) is None
    assert epochs_table(group_runs(both), twice) is not None
    text = [replace(one, params=one.params | {"model.text": "words"}) for one in both]
    assert epochs_table(group_runs(text), twice) is None  # KID orders nothing
    assert epochs_table(group_runs(both), twice | {both[1].run_id: {}}) is None  # has no curve


def test_rates_stand_against_epochs_for_each_method() -> None:
    runs = [
        run(method, seed, str(rate))
        for method, rates in {"spire": (0.02, 0.1), "fedavg_ft": (0.0001, 0.001)}.items()
        for rate in rates
        for seed in (0, 1)
    ]
    histories = {
        r.run_id: {KID_EPOCHS: [(0, 2.0), (8, float(r.params["adapt.lr"]) + int(r.params["seed"]))]}
        for r in runs
    }
    (picture,) = rate_pictures(group_runs(runs), histories)
    assert [axes.get_title() for axes in picture.figure.axes[:2]] == ["spire", "fedavg_ft"]
    spire = picture.figure.axes[0]
    assert [t.get_text() for t in spire.get_yticklabels()] == ["0.02", "0.1"]
    assert [t.get_text() for t in spire.texts] == ["2", "0.52", "2", "0.6"]
    wider = [replace(r, params={**r.params, "model.width": r.params["adapt.lr"]}) for r in runs]
    assert rate_pictures(group_runs(wider), histories) == []  # with the rate, something else varies
    alone = [r for r in runs if r.params["adapt.lr"] in ("0.02", "0.0001")]
    assert rate_pictures(group_runs(alone), histories) == []


def test_one_method_alone_has_a_line_for_each_of_its_settings() -> None:
    runs = [run("spire", seed, rate) for rate in ("0.02", "0.1") for seed in (0, 1)]
    histories = {r.run_id: curve((0, 2.0), (8, 1.0 + int(r.params["seed"]))) for r in runs}
    alone = curves(group_runs(runs), KID_EPOCHS, histories)
    assert [(line.name, line.style) for line in alone] == [
        ("adapt.lr=0.02", 0),
        ("adapt.lr=0.1", 1),
    ]
    assert alone[0].points == ((0, 2.0, 2.0, 2.0), (8, 1.5, 1.0, 2.0))
    other = run("fedavg_ft", 0, "0.1")
    both = curves(
        group_runs([runs[0], other]), KID_EPOCHS, histories | {other.run_id: curve((0, 1.0))}
    )
    assert [line.name for line in both] == ["spire", "fedavg_ft"]
