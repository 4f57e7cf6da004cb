"""Settings of theory experiments under which a theorem would look wrong are refused, or noted."""

import math
import re
from pathlib import Path

import pytest
import torch

from pipeline.theory import any_shapes, backbone, bridge, landscape, optimiser
from pipeline.theory.config import load_theory
from pipeline.theory.outcome import Score
from pipeline.theory.run import check_theory
from spire_core.errors import ConfigError

PAGE = Path(__file__).parents[4] / "docs" / "theory.md"


def test_the_pages_example_of_settings_is_accepted() -> None:
    (example,) = re.findall(r"for example `(w=[^`]*)`", PAGE.read_text())
    check_theory(load_theory("all", example.split()))


@pytest.mark.parametrize(
    ("preset", "settings", "message"),
    [
        ("theorem", "w=0.1 scaling.m_t=1.0", "at most 0.0011 of .* got 0.055 after 32: raise"),
        ("theorem", "w=0.5 scaling.m_t=2 scaling.dims=[16,64]", "at most 0.05 .* got 0.39"),
        ("theorem", "scaling.m_t=100 c=1000", "got 1 after 32: raise scaling.steps or lower"),
        ("theorem", "w=0.999 scaling.nums=[20,2000]", "nums of at least 1000 at w = 0.999, got 20"),
        ("backbone", "backbone.clients=[4]", "entries of backbone.clients or more, got .4.: few"),
        ("backbone", "backbone.skew=5 backbone.even=5", "backbone.skew below .* got 5.0: the even"),
        ("landscape", "landscape.concentration=0.5", "in 10000 steps, got 0.0016 as the least"),
        ("landscape", "landscape.concentration=0.001", "got 0 as the least, .*: raise landscape"),
    ],
)
def test_settings_that_hide_what_is_claimed_are_refused(
    preset: str, settings: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_theory(load_theory(preset, settings.split()))
    check_theory(load_theory(preset, []))


@pytest.mark.parametrize(("seed", "steps"), [(0, 800), (6, 1488)])
def test_descent_takes_as_many_steps_as_the_weights_need(seed: int, steps: int) -> None:
    config = load_theory("landscape", [f"seed={seed}"])
    nodes = any_shapes.diffused_nodes(any_shapes.any_shapes())
    target = any_shapes.true_weights(config)
    assert any_shapes.num_steps(config) == steps
    path = any_shapes._path(steps, "equal weights", nodes, target, 0.0 * target)
    assert path.errors[-1] < 1e-6
    fixed = load_theory("landscape", [f"seed={seed}", "landscape.steps=40"])
    assert any_shapes.num_steps(fixed) == 40


def test_a_factor_that_is_not_measured_is_a_note() -> None:
    assert any_shapes._rate_claim(math.nan, 0.98).is_met is None
    found = [any_shapes._rate_claim(0.98 + off, 0.98).is_met for off in (9e-4, 2e-3)]
    assert found == [True, False]


def test_errors_whose_limit_is_at_an_end_are_not_compared() -> None:
    """A shift by 6 pins the estimate at 0 on every replicate, so that its error has no error."""
    few = ["backbone.replicates=40", "backbone.sizes=[0.0,6.0]"]
    config = load_theory("backbone", few)
    mu = torch.full((64,), 0.25, dtype=torch.float64)
    rows = backbone._wrong(config, mu, "shift", 2)
    assert [row.is_inside for row in rows] == [True, False]
    assert rows[1].predicted == pytest.approx((18.0, 0.0), abs=1e-6)
    claim = backbone._formula_claim(rows)
    assert claim.is_met
    assert claim.text.endswith("at most (1 of 2 left out, near 0 or 1)")
    assert backbone._formula_claim(rows[1:]).is_met is None
    equal = backbone.Wrong(Score(1.0, 0.0), Score(1.0, 0.0), Score(1.0, 0.0), {})
    assert backbone._formula_claim([equal]).is_met


def test_the_order_of_a_list_decides_nothing() -> None:
    def found(*settings: str) -> list:
        config = load_theory("all", ["backbone.learned=2", "optimiser.steps=40", *settings])
        learned = [{"median": 1.2}, {"median": 1.0}]
        told = backbone._learned_claims(config, dict.fromkeys((0.5, 50.0), learned))
        return [bridge._gradients(config), optimiser._rates(config), told]

    rising = ("bridge.gradients=[1,2,4]", "optimiser.separations=[3,4]", "backbone.clients=[1,8]")
    mixed = ("bridge.gradients=[4,1,2]", "optimiser.separations=[4,3]", "backbone.clients=[8,1]")
    assert str(found(*rising)) == str(found(*mixed))  # NaN is not equal to itself
    few = ("backbone.d=4", "backbone.replicates=2", "backbone.sizes=[0.0]", "backbone.learned=2")
    tables = [
        backbone.run_backbone(load_theory("backbone", [*few, clients])).tables
        for clients in (rising[2], mixed[2])
    ]
    assert tables[0] == tables[1]


def test_settings_that_cannot_show_an_effect_leave_the_bounds_as_claims() -> None:
    """At m_t of 5 no curvature is above 2 m_t^2, and no path gets far."""
    config = load_theory("landscape", ["landscape.separations=[5.0]"])
    shapes = landscape._two_components(config)
    assert [claim.is_met for claim in landscape._shape_claims(shapes)] == [True, True, True]
    assert "none here is above 2 m_t^2" in landscape._shape_claims(shapes)[0].text
    beyond = shapes | {f"{landscape.LARGEST}, any w": [1.24]}
    assert landscape._shape_claims(beyond)[0].is_met is False
    assert [landscape._path_claims(n, -1.0, 0, 3)[0].is_met for n in (0, 1)] == [True, False]
    swings = [(1e-18, 1e-19), (0.0, 0.0), (0.1, 0.009), (0.1, 0.011)]
    assert [optimiser._swing_claim(*s).is_met for s in swings] == [None, None, True, False]
