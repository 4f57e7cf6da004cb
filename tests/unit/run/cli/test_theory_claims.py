"""The verdicts of theory experiments on either side of each limit, from scores made by hand."""

import math
from dataclasses import replace

import pytest

from pipeline.theory import backbone, components, optimiser, readout, scaling
from pipeline.theory.config import BackboneConfig, ScalingConfig, TheoryConfig
from pipeline.theory.outcome import Claim, Score

ERROR = 0.01
OFF = [(-4.1, False), (-3.9, True), (3.9, True), (4.1, False)]  # standard errors
CONFIG = TheoryConfig(scaling=ScalingConfig(dims=(2, 4)), backbone=BackboneConfig(clients=(1, 8)))


def verdicts(claims: list[Claim]) -> list[bool | None]:
    return [claim.is_met for claim in claims]


@pytest.mark.parametrize(
    ("slope", "is_met"), [(-1.081, False), (-1.079, True), (-0.921, True), (-0.919, False)]
)
def test_a_slope_is_near_minus_one(slope: float, is_met: bool) -> None:
    slopes = {"right": Score(-1.0, ERROR), "given": Score(slope, ERROR)}
    assert verdicts(scaling._slope_claims(slopes)) == [True, is_met]


@pytest.mark.parametrize(("off", "is_met"), OFF)
def test_errors_are_near_their_formulas_at_every_d(off: float, is_met: bool) -> None:
    names = (scaling.AT_T, scaling.SANDWICH, scaling.ONE_AXIS, scaling.BOUND, scaling.MOMENT)
    right = dict.fromkeys([*names, "moment, exact"], Score(1.0, ERROR))

    def found(name: str) -> list[bool | None]:
        rows = [right | {name: Score(1.0 + off * ERROR, ERROR)}, right]
        return verdicts([*scaling._d_claims(CONFIG, rows), *scaling._bound_claims(CONFIG, rows)])

    assert found(scaling.AT_T) == [is_met, True, True]
    assert found(scaling.ONE_AXIS) == [True, is_met, True]
    assert found(scaling.MOMENT) == [True, True, is_met]


@pytest.mark.parametrize(
    ("ratio", "is_met"), [(0.909, False), (0.911, True), (1.189, True), (1.191, False)]
)
def test_descent_is_as_good_as_cramer_rao_up_to_four_errors(ratio: float, is_met: bool) -> None:
    row = {
        components.OVER_T: Score(2.0 * ratio, 2.0 * ERROR),
        components.CRAMER_RAO: Score(2.0, 0.0),
        components.AFFINE: Score(math.nan, math.nan),
        components.FORM: Score(1.0, 0.0),
    }
    assert components._claim("circle-5", row).is_met is is_met


@pytest.mark.parametrize(("off", "is_met"), OFF)
def test_errors_on_wrong_means_are_near_the_formula(off: float, is_met: bool) -> None:
    right = backbone.Wrong(Score(1.0, 0.6 * ERROR), Score(1.0, 0.8 * ERROR), Score(1.0, ERROR), {})
    wrong = {kind: [right, right] for kind in backbone.KINDS}
    assert backbone._wrong_claims(CONFIG, wrong, 0.2)[0].is_met is True
    wrong["scale"][0] = right._replace(measured=Score(1.0 + off * ERROR, 0.6 * ERROR))
    assert backbone._wrong_claims(CONFIG, wrong, 0.2)[0].is_met is is_met


@pytest.mark.parametrize(
    ("skewed", "even", "expected"),
    [
        ((3.0, 1.0), (1.1, 1.0), [True, True, True]),
        ((1.0, 1.1), (1.3, 1.0), [False, True, False]),
        ((1.2, 1.0), (1.3, 1.0), [True, True, False]),
        ((1.2, 1.0), (1.0, 1.1), [True, False, True]),
    ],
)
def test_more_clients_lower_the_error_and_most_for_skewed_ones(
    skewed: tuple[float, float], even: tuple[float, float], expected: list[bool]
) -> None:
    group = CONFIG.backbone
    learned = {
        skew: [{"median": median} for median in medians]
        for skew, medians in ((group.skew, skewed), (group.even, even))
    }
    assert verdicts(backbone._learned_claims(CONFIG, learned)) == expected


@pytest.mark.parametrize(("off", "is_met"), OFF)
def test_a_measured_rate_is_near_the_predicted_one(off: float, is_met: bool) -> None:
    assert optimiser._rate_claim([0.0, off, math.nan]).is_met is is_met


@pytest.mark.parametrize(("off", "is_met"), OFF)
def test_what_is_read_off_is_near_its_error_and_likelihood_below_the_bound(
    off: float, is_met: bool
) -> None:
    likelihood = Score(1.5, ERROR)
    right = readout.Row(2, 1.0, 1.5, 1.0, Score(1.0, ERROR), likelihood)
    other = right._replace(read=Score(1.0 + off * ERROR, ERROR))
    assert verdicts(readout._claims([right, other], 0.7)) == [is_met, True, None]
    above = right._replace(likelihood=likelihood._replace(mean=1.5 + off * ERROR))
    assert readout._claims([above, right], 0.7)[1].is_met is (off < 4.0)


def test_the_landscape_is_told_with_its_limits_at_the_largest_separation() -> None:
    """Above it 1 - factor is rounding."""
    from pipeline.theory.landscape import _shape_claims, _two_components

    config = replace(CONFIG, landscape=replace(CONFIG.landscape, separations=(0.1, 6.0)))
    assert verdicts(_shape_claims(_two_components(config))) == [True, True, True]
