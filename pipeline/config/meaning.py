"""What a configuration means: the settings that count, and the hashes of those.

A setting counts unless its method never reads it (`reads`), another setting switches it off
(`SWITCHES`), or it only says where a run takes place (`determines`).
"""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.config.data import DATASETS
from pipeline.config.load import flattened, load_config, read_words
from pipeline.config.plugins import plugins_of
from pipeline.config.schema import Config
from spire_core.config.partition import INDEPENDENT
from spire_core.config.privacy import refuse_label
from spire_core.errors import ConfigError
from spire_core.methods import CLIENT_EMB, DENOISER, Method

_logger = logging.getLogger(__name__)
# The version of the numbers: raise it by hand when the same settings come to mean another result.
NUMBERS = 3
EMBEDDING_KEYS = (
    "model.d_emb",
    "model.num_embs",
    "model.assign",
    "client.emb_",
    "client.private_moments",
    "adapt.init",
)
EMBEDDING_KEYS += ("method.entrance", "method.projection")
LOCAL_LAYER_KEYS = ("method.phases", "adapt.local_init")
OF_ROUNDS = ("client.", "server.", "eval.text_guidance", "federation.num_rounds")
OF_ROUNDS += ("federation.cohort_size", "federation.tau", "federation.local_epochs")
OF_ROUNDS += ("federation.drop_rate", "federation.secure_aggregation")
# Also where nothing trains in rounds:
ALWAYS_READ = ("client.precision", "client.micro_batch", "adapt.num_images")
PLACES = ("resources.", "tracking.", "data.root", "data.on_bad", "eval.extractor_weights")
PLACES += ("federation.client_timeout_s",)  # a client that is computed again gives the same
OWN_NETWORK = ("model.width", "model.multipliers", "model.num_blocks", "model.attention")
OWN_NETWORK += ("model.cond_dim", "model.space_to_depth", "diffusion.schedule")
OWN_NETWORK += ("diffusion.num_timesteps", "diffusion.prediction")
FIT = ("adapt.lr", "adapt.batch_size", "adapt.draws", "adapt.schedule", "adapt.average")
FIT += ("adapt.pull",)
MIXED = ("inner_dirichlet", "dirichlet", INDEPENDENT)

Switch = tuple[tuple[str, ...], str, Callable[[Config], bool]]
# Settings, by how their keys begin; what they count with; whether that is so.
# fmt: off
SWITCHES: tuple[Switch, ...] = (
    (("client.private_moments",), "client.opt_state=average", lambda c: c.client.opt_state == "average"),
    (("client.top_k_fraction",), "client.compression=top_k", lambda c: c.client.compression == "top_k"),
    (("client.micro_batch",), "client.engine=loop", lambda c: c.resolved_client.engine == "loop"),
    (("client.group_size",), "client.engine=grouped", lambda c: c.resolved_client.engine != "loop"),
    (("method.entrance", "method.projection", "model.checkpointing"), "model.backbone", lambda c: c.model.backbone is not None),
    (OWN_NETWORK, "model.backbone=null", lambda c: c.model.backbone is None),
    (("data.on_bad",), "data=folder", lambda c: c.data.name == "folder"),
    (("data.clients", "data.captions"), "data.metadata", lambda c: c.data.metadata is not None),
    (("model.words",), "model.text=words", lambda c: c.model.text == "words"),
    (("model.text_encoder", "model.text_dim"), "model.text=sentences", lambda c: c.model.text == "sentences"),
    (("client.text_dropout", "eval.text_guidance"), "model.text", lambda c: c.model.text != "none"),
    (("eval.reference", "eval.kid_", "eval.extractor_weights"), "eval.extractor", lambda c: c.eval.extractor != "none"),
    (("eval.guidance_interval",), "eval.guidance or adapt.guidance", lambda c: c.is_guided),
    (("eval.metrics",), "new clients", lambda c: c.federation.num_new_clients > 0),
    (("eval.controls",), "KID, without prompts", lambda c: c.can_have_controls),
    (("server.optimizer", "server.lr", "server.momentum"), "a method without a server's step of its own", lambda c: c.method.record.server_step is None),
    (("server.momentum",), "server.optimizer=fedavgm or fedadam", lambda c: c.server.optimizer != "fedavg"),
    (("partition.alpha",), f"partition={' or '.join(MIXED)}", lambda c: c.partition.name in MIXED or c.partition.is_outside),
    (("partition.classes_per_client",), "partition=pathological", lambda c: c.partition.name == "pathological" or c.partition.is_outside),
    (("adapt.group_size",), "model.dropout=0", lambda c: c.model.dropout == 0.0),
    (("adapt.epochs",), "privacy.adapt.epsilon=null (privacy.adapt.steps counts)", lambda c: not c.privacy.adapt.is_on),
    (FIT, "privacy.adapt.epsilon=null (privacy.adapt has settings of its own)", lambda c: c.scores_tuned or not c.privacy.adapt.is_on),
    (("adapt.eval_every", "adapt.group_size", "privacy.adapt.batch_size"), "privacy.adapt.mechanism=dp_sgd", lambda c: not c.privacy.adapt.is_on or c.privacy.adapt.mechanism == "dp_sgd"),
    (("adapt.pull",), "common weights that clients start from", lambda c: c.has_backbone),
    (("privacy.noise_key",), "privacy.adapt.epsilon or privacy.rounds.epsilon", lambda c: c.privacy.is_on),
    (("privacy.rounds.",), "privacy.rounds.epsilon", lambda c: c.privacy.rounds.is_on),
    (("privacy.adapt.",), "privacy.adapt.epsilon", lambda c: c.privacy.adapt.is_on),
    (("resources.num_", "federation.client_timeout_s"), "resources.pool=ray", lambda c: c.resources.pool == "ray"),
    (("data.root",), "a data set with a name", lambda c: c.data.name in DATASETS),
    (("tracking.profile",), "a method with rounds", lambda c: c.method.record.is_federated),
    (("tracking.storage",), "a run without privacy (a copy without its noise key could not go on)", lambda c: not c.privacy.is_on),
    (("tracking.uri", "tracking.experiment"), "tracking.enabled=true", lambda c: c.tracking.enabled),
)
# fmt: on


def reads(method: Method, key: str) -> bool:
    """Return whether a setting, by its whole key, can make a difference to a method."""
    unread: tuple[str, ...] = () if method.has_embedding else EMBEDDING_KEYS
    unread += () if method.has_local_layers else LOCAL_LAYER_KEYS
    unread += () if method.names_layers else ("method.local_layers",)
    unread += () if method.is_federated else OF_ROUNDS
    unread += () if method.adapter == "lora" else ("method.rank",)
    unread += () if method.adapts_layers else ("method.freeze", "method.share_adapter")
    unread += () if method.adapter == DENOISER else ("method.t0", "method.own_width")
    unread += () if method.adapt_parts else ("adapt.", "privacy.adapt.")
    unread += () if method.can_tune else ("adapt.tune_epochs",)
    unread += ("adapt.pull",) if method.adapt_parts == (CLIENT_EMB,) else ("adapt.group_size",)
    return key in ALWAYS_READ or not key.startswith(unread)


def determines(key: str) -> bool:
    """Return whether a setting, by its whole key, can make a difference to any result."""
    return not key.startswith(PLACES)


def switched_off(key: str, config: Config) -> str | None:
    """Return the setting without which another one, by its whole key, does not count; or None."""
    off = (needed for keys, needed, is_on in SWITCHES if key.startswith(keys) and not is_on(config))
    return next(off, None)


def without_effect(config: Config, words: Sequence[str]) -> dict[str, str]:
    """Return what is to be said, by its key, of each word that another setting switches off.

    A method's own settings are left out: people give all methods the same ones.
    """
    values, defaults = flattened(config.as_dict()), flattened(Config().as_dict())
    typed = [key for key in flattened(read_words(words)) if values.get(key) != defaults.get(key)]
    found = {key: switched_off(key, config) for key in typed if reads(config.method.record, key)}
    return {key: f"{key} counts with {needed} alone" for key, needed in found.items() if needed}


def say_without_effect(faults: Mapping[str, str]) -> None:
    """Warn, in one line, of settings without effect; ConfigError for one of privacy.

    `faults`: by key, as `without_effect` has them.
    """
    for key, fault in faults.items():
        if key.startswith("privacy."):
            raise ConfigError(f"expected settings that count, got {key}: {fault}")
    if faults:
        _logger.warning("settings without effect: %s", "; ".join(faults.values()))


def load_typed(preset: str | None, words: Sequence[str]) -> Config:
    """Return a preset with words of a new run, of which those without effect are named.

    ConfigError for one of privacy without effect, and for the label of a noise key in its place.
    """
    config = load_config(preset, words)
    say_without_effect(without_effect(config, words))
    refuse_label(config.privacy)
    return config


def fingerprint(config: Config) -> str:
    """Return the SHA-256 of all that determines the result: not where it runs or is stored."""
    return _digest(_counting(config))


def pretrain_fingerprint(config: Config) -> str:
    """Return the SHA-256 of all that determines the pre-training: adaptation is left out.

    Methods that differ only in the part that a new client trains have it in common.
    """
    method, settings = config.method.record, _counting(config)
    of_fits = ["adapt.", "privacy.adapt.", "eval.controls", "eval.metrics", "plugin metric "]
    of_fits += [] if method.changes_rounds else ["plugin method "]
    of_fits += [] if config.eval.guidance != 1.0 else ["eval.guidance_interval"]
    of_fits += [] if config.privacy.rounds.is_on else ["privacy."]
    kept = {key: value for key, value in settings.items() if not key.startswith(tuple(of_fits))}
    traits = [method.has_embedding, method.has_local_layers, method.is_federated]
    kept["method.name"] = [*traits, method.adapter, method.is_frozen]
    return _digest(kept)


def _counting(config: Config) -> dict[str, Any]:
    """Return the settings that determine the result, by whole key, and what they stand for."""
    settings, method = flattened(config.as_dict()), config.method.record
    settings["client.engine"] = config.resolved_client.engine
    settings["adapt.lr"], settings["privacy.adapt.lr"] = config.adapt_lr, config.private_lr
    settings["privacy.noise_key"] = config.privacy.labelled().noise_key
    if config.data.name in DATASETS:  # its name says which images it has
        del settings["data.path"]
    settings = {
        key: value
        for key, value in settings.items()
        if determines(key) and reads(method, key) and switched_off(key, config) is None
    }
    outside = {f"plugin {one.kind} {one.name}": one.version for one in plugins_of(config)}
    numbers = NUMBERS + (config.model.num_embs > 1)  # several had another assignment
    return {**settings, **outside, "numbers": numbers}


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
