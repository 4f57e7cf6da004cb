"""When two configurations mean the same, and the hashes that say so.

A setting that nothing reads makes no difference: the method has no use for it (`reads`), or
another setting switches it off. Nor does one that says where a run takes place (`determines`).
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.config.build import flattened
from pipeline.config.data import DATASETS
from pipeline.config.plugins import plugins_of
from pipeline.config.schema import Config
from pipeline.config.switches import ENTRANCE_KEYS, SWITCHES
from spire_core.methods import CLIENT_EMB, Method

EMBEDDING_KEYS = ("model.d_emb", "client.emb_lr", "client.emb_proj_lr_factor", "adapt.init")
EMBEDDING_KEYS += ("client.emb_init_std", "client.emb_dropout", "client.private_moments")
EMBEDDING_KEYS += ("client.emb_noise", "client.emb_prior", "client.emb_first_steps")
EMBEDDING_KEYS += ("adapt.emb_prior", "method.episodes", "model.set_encoder")
LOCAL_LAYER_KEYS = ("method.local_layers", "method.phases", "method.share_until")
LOCAL_LAYER_KEYS += ("adapt.local_init",)
# How every client trains, also a new one of a method without rounds.
ALWAYS_READ = ("client.betas", "client.precision", "client.compile", "adapt.num_images")
LOCATION_KEYS = ("resources.", "tracking.", "data.root", "eval.extractor_weights")
# Settings that runs were stored without. At their defaults, or at `OFF`, they are no part of a
# fingerprint.
ADDED = ("data.metadata", "data.clients", "data.captions")
ADDED += ("model.text", "model.words", "client.text_dropout", "eval.text_guidance")
ADDED += ("model.text_encoder", "model.text_dim")
ADDED += ("partition.new_clients", "partition.hidden", "partition.hidden_from_new")
ADDED += ("federation.secure_aggregation",)
ADDED += ("model.backbone", *ENTRANCE_KEYS, "method.rank", "method.freeze", "method.share_adapter")
ADDED += ("partition.style", "eval.controls")
ADDED += ("adapt.draws", "adapt.schedule", "adapt.average", "adapt.emb_prior")
ADDED += ("client.emb_noise", "client.emb_prior", "client.emb_first_steps", "adapt.local_init")
ADDED += ("method.episodes",)
ADDED += ("eval.metrics", "eval.guidance_interval", "model.set_encoder", "adapt.guidance")
ADDED += ("eval.reference",)
NO_ROUNDS = {  # what stands for the rounds of a method that has none
    "federation.num_rounds": 1,
    "federation.cohort_size": 1,
    "federation.tau": 1,
    "federation.local_epochs": None,
    "federation.drop_rate": 0.0,
    "federation.secure_aggregation": False,
}
# What stands for a setting that is switched off, or that a run was stored without, where that is
# not its default.
OFF = {"eval.controls": False}
_DEFAULT = object()
# The version of the numbers: raise it by hand when the same settings come to mean another result.
NUMBERS = 2


def canonical(config: Config) -> Config:
    """Return the configuration with every setting at its default that nothing reads.

    Two configurations with the same canonical form give the same result.
    """
    method = config.method.record
    unread = [key for key in flattened(config.as_dict()) if not reads(method, key)]
    config = _resolved(_at_defaults(config, unread))
    return _at_defaults(config, _switched_off(config))


def reads(method: Method, key: str) -> bool:
    """Return whether a setting, by its whole key, can make a difference to a method."""
    unread: tuple[str, ...] = () if method.has_embedding else EMBEDDING_KEYS + ENTRANCE_KEYS
    unread += () if method.has_local_layers else LOCAL_LAYER_KEYS
    of_rounds = ("client.", "server.", "eval.text_guidance", *NO_ROUNDS)
    unread += () if method.is_federated else of_rounds
    unread += () if method.adapter == "lora" else ("method.rank",)
    unread += () if method.adapter else ("method.freeze", "method.share_adapter")
    unread += () if method.adapt_parts else ("adapt.", "privacy.adapt.")
    unread += () if method.can_tune else ("adapt.tune_epochs",)
    unread += () if method.adapt_parts == (CLIENT_EMB,) else ("adapt.group_size",)
    return key in ALWAYS_READ or not key.startswith(unread)


def determines(key: str) -> bool:
    """Return whether a setting, by its whole key, can make a difference to any result.

    The others say where things run and are kept.
    """
    return not key.startswith(LOCATION_KEYS)


def _resolved(config: Config) -> Config:
    """Return the configuration with the engine and the rate that "auto" and None stand for."""
    lr = config.adapt.lr or config.method.record.adapt_lr or None
    adapt = dataclasses.replace(config.adapt, lr=lr)
    private = dataclasses.replace(config.privacy.adapt, lr=config.private_lr)
    privacy = dataclasses.replace(config.privacy.labelled(), adapt=private)
    groups = {"client": config.resolved_client, "adapt": adapt, "privacy": privacy}
    return dataclasses.replace(config, **groups)


def _switched_off(config: Config) -> list[str]:
    """Return the keys that no method reads, because of another setting."""
    keys = [key for switch in SWITCHES if not switch.is_on(config) for key in switch.keys]
    if not _can_have_controls(config):
        keys.append("eval.controls")
    return [*keys, "federation.client_timeout_s"]  # done again, a client's work is the same


def _can_have_controls(config: Config) -> bool:
    """Return whether controls can be scored: by KID, and without prompts, which have their own."""
    has_kid = config.eval.extractor != "none"
    return has_kid and config.model.text == "none" and config.federation.num_new_clients > 0


def _at_defaults(config: Config, keys: Iterable[str]) -> Config:
    """Return the configuration with some settings at what stands for them where nothing reads them.

    That is their defaults, but for `NO_ROUNDS` and `OFF`.
    """
    changes: dict[str, Any] = {}
    for key in keys:
        *groups, name = key.split(".")
        inside = changes
        for group in groups:
            inside = inside.setdefault(group, {})
        inside[name] = (NO_ROUNDS | OFF).get(key, _DEFAULT)
    return _changed(config, changes)


def _changed(group: Any, changes: Mapping[str, Any]) -> Any:
    """Return a group of settings with changes by name, those of a group in it nested.

    All are made at once, because the rules between settings may not hold in between.
    """
    values = {}
    for name, change in changes.items():
        if isinstance(change, dict):
            change = _changed(getattr(group, name), change)
        values[name] = getattr(type(group), name) if change is _DEFAULT else change
    return dataclasses.replace(group, **values)


def scores_controls(config: Config) -> bool:
    """Return whether new clients' controls are scored: they are wanted, and can be."""
    return config.eval.controls and _can_have_controls(config)


def fingerprint(config: Config) -> str:
    """Return the SHA-256 of all that determines the result: not where it runs or is stored."""
    return _digest(_determining(config))


def pretrain_fingerprint(config: Config) -> str:
    """Return the SHA-256 of all that determines the pre-training: adaptation is left out.

    Methods that differ only in the part that a new client trains have it in common.
    """
    settings, method = _determining(config), config.method.record
    del settings["adapt"]
    settings["eval"].pop("controls", None)  # of new clients alone
    settings["eval"].pop("metrics", None)  # of new clients alone
    if config.eval.guidance == 1.0:
        settings["eval"].pop("guidance_interval", None)  # likewise
    _leave_plugins_of_rounds(settings, method)
    if config.privacy.rounds.is_on:
        del settings["privacy"]["adapt"]  # of new clients alone
    else:
        settings.pop("privacy", None)
    settings["method"]["name"] = [
        method.has_embedding,
        method.has_local_layers,
        method.is_federated,
        *([method.adapter] if method.adapter else []),  # orders the weights in another way
        *(["frozen"] if method.is_frozen else []),
    ]
    return _digest(settings)


def _leave_plugins_of_rounds(settings: dict[str, Any], method: Method) -> None:
    """Drop metrics from outside, and a method that rounds see in its parts alone, in place."""
    dropped = ("metric ",) if method.penalty is not None else ("metric ", "method ")
    plugins = settings.pop("plugins", {})
    kept = {key: version for key, version in plugins.items() if not key.startswith(dropped)}
    if kept:
        settings["plugins"] = kept


def _determining(config: Config) -> dict[str, Any]:
    """Return the canonical settings that determine the result, by group, and `NUMBERS`.

    Those in `ADDED` are left out where they have their defaults, or are `OFF`.
    """
    settings = {
        group: {name: value for name, value in values.items() if determines(f"{group}.{name}")}
        if isinstance(values, dict)
        else values
        for group, values in canonical(config).as_dict().items()
        if determines(f"{group}.")
    }
    if not config.privacy.is_on:  # such runs have the fingerprint of times without these settings
        del settings["privacy"]
    elif not config.privacy.rounds.is_on:  # as in times when new clients alone had privacy
        del settings["privacy"]["rounds"]
    if config.set_aside > 0:  # not as when images set aside were training images in scores
        settings["adapt"]["val_fraction"] = f"{config.set_aside}, apart"
        if config.adapt.guidance is not None:  # not as when it was chosen by images that are scored
            settings["adapt"]["guidance"] = ["other noise", *config.adapt.guidance]
    defaults = flattened(Config().as_dict()) | OFF
    for key in ADDED:
        group, _, name = key.partition(".")
        if settings[group][name] == defaults[key]:
            del settings[group][name]
    if config.data.name != "folder" or config.data.channels == 3:  # as in times without a choice
        del settings["data"]["channels"]
    if config.data.name in DATASETS:  # the name of a known data set says which images it has
        del settings["data"]["path"]
    outside = {f"{one.kind} {one.name}": one.version for one in plugins_of(config)}
    return settings | {"schema": NUMBERS} | ({"plugins": outside} if outside else {})


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
