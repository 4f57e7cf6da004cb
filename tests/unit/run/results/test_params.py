"""Few settings are params, and with the defaults they say all settings of a run."""

import pytest

from pipeline.config.load import flattened, load_config, preset_names
from pipeline.results.params import ALWAYS, NO_PARAMS, default_params, params_of

SET = ("client.prox_mu=0.5", "server.optimizer=fedadam", "eval.guidance=2", "adapt.lr=0.125")


@pytest.mark.parametrize("preset", preset_names())
def test_params_and_defaults_are_all_settings_of_a_run(preset: str) -> None:
    needed = ["model.backbone=/folder"] if preset.startswith("retrofit") else []
    config = load_config(preset, [*needed, *SET])
    params = {key: str(value) for key, value in params_of(config).items()}
    settings = {key: str(value) for key, value in flattened(config.as_dict()).items()}
    kept = {key: value for key, value in settings.items() if not key.startswith(NO_PARAMS)}
    assert {**default_params(), **params} == kept
    assert len(params) < 45, "more than that hide the images of MLflow's cards"
    assert {*ALWAYS, "client.prox_mu", "server.optimizer"} <= params.keys()


def test_a_rate_is_the_one_that_was_used() -> None:
    assert params_of(load_config("smoke", ["method=fedavg_ft"]))["adapt.lr"] == 3e-4


def test_a_setting_on_an_axis_is_a_param_of_every_trial() -> None:
    config = load_config("smoke", [])
    more = params_of(config, ("method", "axis.adapt.init", "axis.method")).keys()
    assert more - params_of(config).keys() == {"adapt.init"}
