"""A setting of a sweep has an effect in one of its trials, or is refused."""

import pytest

from spire_core.errors import ConfigError
from sweeps.design.config import SweepConfig
from sweeps.design.points import check_effects, trials


def sweep(**settings: object) -> SweepConfig:
    return SweepConfig(name="s", preset="smoke", **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"settings": {"eval.text_guidance": 2.0}}, "eval.text_guidance counts with model.text"),
        ({"axes": {"server.momentum": [0.5, 0.7]}}, "server.momentum counts with"),
    ],
)
def test_without_effect_in_any_trial_it_is_named(
    settings: dict[str, object], told: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_effects(trials(sweep(**settings)))
    assert told in caplog.text


def test_a_setting_of_privacy_without_effect_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"privacy\.adapt\.delta counts with privacy\.adapt\.eps"):
        check_effects(trials(sweep(settings={"privacy.adapt.delta": 0.1})))


@pytest.mark.parametrize(
    "settings",
    [
        {"settings": {"privacy.adapt.delta": 0.01}, "axes": {"privacy.adapt.epsilon": [4, None]}},
        {"axes": {"method": ["spire", "fedavg_ft"], "model.d_emb": [8, 16]}},
        {"settings": {"tracking.uri": "http://there:1", "tracking.enabled": False}},
    ],
)
def test_with_an_effect_in_one_trial_it_is_taken(
    settings: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    check_effects(trials(sweep(**settings)))
    assert not caplog.messages
