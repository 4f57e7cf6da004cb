"""A setting of a sweep has an effect in one of its trials, or is refused."""

from dataclasses import replace

import pytest

from spire_core.errors import ConfigError
from sweeps.design.config import SweepConfig
from sweeps.design.effect import check_effects
from sweeps.design.load import load_sweep, sweep_names
from sweeps.design.points import Trial, trials


def sweep(**settings: object) -> SweepConfig:
    return SweepConfig(name="s", preset="smoke", **settings)  # type: ignore[arg-type]


def points_of(name: str) -> list[Trial]:
    """The trials of one of our own sweeps on one of its seeds: all seeds have the same points."""
    one = load_sweep(name)
    return trials(replace(one, seeds=one.seeds[:1]))


@pytest.mark.parametrize(
    "settings",
    [
        {"settings": {"privacy.adapt.delta": 0.1}},
        {"settings": {"eval.text_guidance": 2.0}, "axes": {"method": ["spire", "fedavg"]}},
        {"axes": {"server.momentum": [0.5, 0.7]}},
        {"settings": {"resources.pool": "local", "resources.num_actors": 2}},
    ],
)
def test_without_effect_in_any_trial_it_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="which has no effect alone"):
        check_effects(trials(sweep(**settings)))


@pytest.mark.parametrize(
    "settings",
    [
        {"settings": {"privacy.adapt.delta": 0.01}, "axes": {"privacy.adapt.epsilon": [4, None]}},
        {"axes": {"method": ["spire", "fedavg_ft"], "model.d_emb": [8, 16]}},
        {"settings": {"resources.pool": "local", "resources.num_cpus": 0.5}},  # of its process
        {"settings": {"tracking.uri": "http://there:1", "tracking.enabled": False}},
    ],
)
def test_with_an_effect_in_one_trial_it_is_taken(settings: dict[str, object]) -> None:
    check_effects(trials(sweep(**settings)))


def test_guided_prompts_need_a_null_text_in_every_trial() -> None:
    settings = {"model.text": "words", "model.words": ["a"], "eval.text_guidance": 2.0}
    given: dict[str, object] = {"settings": settings, "axes": {"client.text_dropout": [0.1, 0.2]}}
    check_effects(trials(sweep(**given)))
    with pytest.raises(ConfigError, match=r"client\.text_dropout above 0 with"):
        check_effects(trials(sweep(**given | {"axes": {"client.text_dropout": [0.1, 0.0]}})))


def test_our_sweep_over_fonts_guides_prompts_by_a_null_text() -> None:
    check_effects(points_of("fonts"))


@pytest.mark.parametrize("name", [one for one in sweep_names() if one.startswith("privacy")])
def test_our_sweeps_over_budgets_have_no_idle_setting(name: str) -> None:
    check_effects(points_of(name))
