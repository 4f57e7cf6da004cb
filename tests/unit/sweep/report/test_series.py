"""Lines over a setting's axis compare like with like."""

from pipeline.tracking.mlflow_queries import TrackedRun
from sweeps.report.groups import Group, group_runs
from sweeps.report.series import against_setting

KID = "final/adapt_kid_after"


def groups(*scored: tuple[float, dict[str, object]]) -> list[Group]:
    runs = []
    for kid, params in scored:
        told = {"method.name": "spire", "seed": "0"}
        told |= {key: str(value) for key, value in params.items()}
        name = "-".join(told.values())
        runs.append(TrackedRun(name, name, "FINISHED", told, {}, {KID: kid}, 0))
    return group_runs(runs)


def lines(found: list[Group], key: str) -> dict[str, list[tuple[float, float]]]:
    drawn = against_setting(found, key, KID)
    assert len({series.style for series in drawn}) == len(drawn)
    return {s.name: [(place, mean) for place, mean, _, _ in s.points] for s in drawn}


def backbone(rounds: int, tau: int) -> dict[str, object]:
    return {"federation.num_rounds": rounds, "federation.tau": tau}


def test_a_setting_that_only_one_place_has_does_not_bend_a_line() -> None:
    found = groups(
        (1.0, backbone(600, 3)),
        (2.0, backbone(300, 3)),
        (4.0, backbone(150, 3)),
        (1.5, backbone(150, 12)),  # better, by four times the steps
        (3.0, backbone(75, 24)),
    )
    at_tau = {"spire, tau=3": [(150, 4.0), (300, 2.0), (600, 1.0)]}
    assert lines(found, "federation.num_rounds") == at_tau
    assert lines(found, "federation.tau") == {"spire, num_rounds=150": [(3, 4.0), (12, 1.5)]}


def test_settings_that_vary_together_make_one_line() -> None:
    found = groups((1.0, backbone(600, 3)), (1.2, backbone(150, 12)), (1.9, backbone(38, 48)))
    assert lines(found, "federation.tau") == {"spire": [(3, 1.0), (12, 1.2), (48, 1.9)]}


def emb(d_emb: int, lr: float) -> dict[str, object]:
    return {"model.d_emb": d_emb, "adapt.lr": lr}


def test_each_place_shows_the_best_rate_also_where_one_is_missing() -> None:
    found = groups((3.0, emb(4, 0.1)), (2.0, emb(4, 0.2)), (1.0, emb(8, 0.1)), (1.5, emb(8, 0.2)))
    assert lines(found, "model.d_emb") == {"spire": [(4, 2.0), (8, 1.0)]}
    assert lines(found[:3], "model.d_emb") == {"spire": [(4, 2.0), (8, 1.0)]}
    assert lines(found, "adapt.lr") == {"spire": [(0.1, 1.0), (0.2, 1.5)]}


def test_other_settings_that_share_no_place_are_lines_of_their_own() -> None:
    def at(client_lr: float, d_emb: int) -> dict[str, object]:
        return {"model.d_emb": d_emb, "client.lr": client_lr}

    found = groups((5.0, at(1, 4)), (4.0, at(1, 8)), (1.0, at(2, 16)), (0.9, at(2, 32)))
    assert lines(found, "model.d_emb") == {
        "spire, client.lr=1": [(4, 5.0), (8, 4.0)],
        "spire, client.lr=2": [(16, 1.0), (32, 0.9)],
    }


def test_lines_of_a_method_beside_others_have_its_colour_and_marker_and_other_dashes() -> None:
    theirs = [(2.0, backbone(n, 3) | {"method.name": "shared_rep"}) for n in (300, 600)]
    ours = [(1.0, backbone(n, tau)) for n in (300, 600) for tau in (3, 12)]
    found = groups(*theirs, *ours, (4.0, backbone(150, 3)))
    drawn = {one.name: one.look for one in against_setting(found, "federation.num_rounds", KID)}
    first, second = (drawn[f"spire, tau={tau}"] for tau in (3, 12))
    for key in ("color", "marker"):
        assert first[key] == second[key] != drawn["shared_rep"][key]
    for key in ("linestyle", "markerfacecolor"):
        assert first[key] != second[key]


def test_a_method_without_the_score_has_no_line() -> None:
    theirs = (2.0, emb(8, 0.1) | {"method.name": "shared_rep"})
    found = groups((3.0, emb(4, 0.1)), (1.0, emb(8, 0.1)), theirs)
    for group in found:
        if group.method == "spire":
            group.runs[0].finals.clear()
    assert lines(found, "model.d_emb") == {"shared_rep": [(4, 2.0)]}  # it has no embedding to size
