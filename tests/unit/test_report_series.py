"""Lines over a setting's axis compare like with like."""

from pipeline.tracked_runs import TrackedRun
from sweeps.report_groups import Group, group_runs
from sweeps.report_series import against_setting

KID = "final/adapt_kid_after"


def groups(*scored: tuple[float, dict[str, object]]) -> list[Group]:
    runs = []
    for kid, params in scored:
        told = {key: str(value) for key, value in params.items()}
        told |= {"method.name": "spire", "seed": "0"}
        name = "-".join(told.values())
        runs.append(TrackedRun(name, name, "FINISHED", told, {}, {KID: kid}, 0))
    return group_runs(runs)


def line(found: list[Group], key: str) -> list[tuple[float, float]]:
    [series] = against_setting(found, key, KID)
    return [(place, mean) for place, mean, _, _ in series.points]


def backbone(rounds: int, tau: int) -> dict[str, object]:
    return {"federation.num_rounds": rounds, "federation.tau": tau}


def test_a_better_setting_that_only_one_place_has_does_not_bend_the_line() -> None:
    found = groups(
        (1.0, backbone(600, 3)),
        (2.0, backbone(300, 3)),
        (4.0, backbone(150, 3)),
        (1.5, backbone(150, 12)),  # better, by twice the steps
        (3.0, backbone(75, 24)),
    )
    assert line(found, "federation.num_rounds") == [(150, 4.0), (300, 2.0), (600, 1.0)]
    assert line(found, "federation.tau") == [(3, 4.0), (12, 1.5)]


def test_settings_that_vary_together_make_one_line() -> None:
    found = groups((1.0, backbone(600, 3)), (1.2, backbone(150, 12)), (1.9, backbone(38, 48)))
    assert line(found, "federation.tau") == [(3, 1.0), (12, 1.2), (48, 1.9)]


def test_of_a_full_grid_each_place_shows_its_best() -> None:
    found = groups(
        *[
            (kid, {"model.d_emb": d_emb, "adapt.lr": lr})
            for d_emb, lr, kid in [(4, 0.1, 3.0), (4, 0.2, 2.0), (8, 0.1, 1.0), (8, 0.2, 1.5)]
        ]
    )
    assert line(found, "model.d_emb") == [(4, 2.0), (8, 1.0)]
