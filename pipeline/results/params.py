"""The settings that are params of a run in MLflow: few, since its image cards print all of them.

Every other setting has its default value, or makes no difference to a result. All settings of a
run are in its `config/resolved.yaml`.
"""

from collections.abc import Iterable, Mapping
from functools import cache

from pipeline.config.load import flattened
from pipeline.config.schema import Config

# Settings that make no difference to a result, and folders, of which a tag has the hash.
NO_PARAMS = ("tracking.", "resources.", "data.root", "data.path", "eval.extractor_weights")
NO_PARAMS += ("model.backbone", "model.text_encoder")
NO_PARAMS += ("eval.grid_images",)
# What runs are found and compared by: params also at their defaults.
ALWAYS = ("seed", "method.name", "data.name", "partition.name", "partition.alpha")
ALWAYS += ("federation.num_clients", "federation.num_new_clients", "federation.cohort_size")
ALWAYS += ("federation.num_rounds", "federation.tau", "federation.local_epochs")
ALWAYS += ("client.batch_size", "client.lr", "client.emb_lr", "model.d_emb", "model.width")
ALWAYS += ("adapt.epochs", "adapt.lr", "adapt.num_images", "eval.guidance")
ALWAYS += ("privacy.adapt.epsilon", "privacy.rounds.epsilon")
AXIS = "axis."  # of the tags with a trial's values on the axes of its sweep


def params_of(config: Config, tags: Iterable[str] = ()) -> dict[str, object]:
    """Return the params of a run: what is always one, and what is not at its default.

    `tags`: the names of its tags. A setting on an axis of its sweep is a param of each trial.
    """
    settings, default = flattened(config.as_dict()), flattened(Config().as_dict())
    settings["adapt.lr"] = config.adapt_lr
    named = {*ALWAYS, *(tag.removeprefix(AXIS) for tag in tags if tag.startswith(AXIS))}
    return {
        key: value
        for key, value in settings.items()
        if not key.startswith(NO_PARAMS) and (key in named or value != default[key])
    }


@cache
def default_params() -> Mapping[str, str]:
    """Return the params of a run with every setting at its default, as texts."""
    settings = flattened(Config().as_dict())
    return {k: str(value) for k, value in settings.items() if not k.startswith(NO_PARAMS)}
