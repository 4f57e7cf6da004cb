"""When two configurations mean the same: settings that nothing reads, and hashes of the others."""

import dataclasses
import hashlib
import json
from typing import Any

from pipeline.config.schema import Config
from spire_core.config.adapt import can_adapt_together
from spire_core.config.model import num_norm_groups
from spire_core.methods import Method

OF_EMBEDDINGS = ("model.d_emb", "client.emb_lr", "client.emb_proj_lr_factor")
OF_EMBEDDINGS += ("client.emb_init_std", "client.emb_dropout", "adapt.init")
OF_LOCAL_LAYERS = ("method.local_layers", "method.phases", "method.share_until")
OF_ALL_TRAINING = ("betas", "precision", "compile")  # settings of clients, also of new ones
ALWAYS_READ = (*(f"client.{name}" for name in OF_ALL_TRAINING), "adapt.num_images")
OF_PLACES = ("resources.", "tracking.", "data.root", "eval.extractor_weights")
ROUNDS = {"num_rounds": 1, "cohort_size": 1, "tau": 1, "local_epochs": None}
ROUNDS |= {"drop_rate": 0.0, "straggler_rate": 0.0, "max_update_norm": None}
LATER = {  # settings that came when there were runs already, and what those had done
    "client.compression": "none",
    "client.precision": "float32",
    "client.compile": False,
    "adapt.tune_epochs": 0,
    "partition.num_train_classes": None,
}


def canonical(config: Config) -> Config:
    """Return the configuration with every setting at its default that its method never reads.

    Two configurations with the same canonical form give the same result.
    """
    record, replace = config.method.record, dataclasses.replace
    if config.federation.on_client_error != "drop":  # done again, a client's work is the same
        unread = replace(config.federation, on_client_error="retry", client_timeout_s=None)
        config = replace(config, federation=unread)
    for key in (*OF_EMBEDDINGS, *OF_LOCAL_LAYERS):
        if not reads(record, key):
            group, _, name = key.partition(".")
            config = replace(config, **{group: _reset(getattr(config, group), name)})
    if not record.is_federated:
        config = replace(
            config,
            federation=replace(config.federation, **ROUNDS),
            client=replace(
                type(config.client)(),
                **{name: getattr(config.client, name) for name in OF_ALL_TRAINING},
            ),
            server=type(config.server)(),
        )
    if config.federation.straggler_rate == 0.0:
        default = type(config.federation).straggler_work
        config = replace(config, federation=replace(config.federation, straggler_work=default))
    if config.server.aggregation != "trimmed_mean":
        config = replace(config, server=_reset(config.server, "trim_fraction"))
    config = replace(config, client=config.resolved_client)
    if config.client.compression != "top_k":
        config = replace(config, client=_reset(config.client, "top_k_fraction"))
    if config.client.engine == "loop":
        config = replace(config, client=_reset(config.client, "group_size"))
    adapt = replace(config.adapt, lr=config.adapt.lr or record.adapt_lr or None)
    if not record.adapt_parts:
        adapt = replace(type(adapt)(), num_images=adapt.num_images)
    if not can_adapt_together(record, config.model):
        adapt = _reset(adapt, "group_size")
    if not record.can_tune:
        adapt = _reset(adapt, "tune_epochs")
    if not adapt.early_stopping:
        adapt = _reset(adapt, "val_fraction", "patience")
    return replace(config, adapt=adapt)


def reads(method: Method, key: str) -> bool:
    """Return whether a setting, by its whole key, can make a difference to a method."""
    if key in OF_EMBEDDINGS and not method.has_embedding:
        return False
    if key in OF_LOCAL_LAYERS and not method.has_local_layers:
        return False
    of_rounds = ("client.", "server.", *(f"federation.{name}" for name in ROUNDS))
    is_unread = not method.is_federated and key.startswith(of_rounds)
    is_unread |= not method.adapt_parts and key.startswith("adapt.")
    is_unread |= not method.can_tune and key == "adapt.tune_epochs"
    return key in ALWAYS_READ or not is_unread


def determines(key: str) -> bool:
    """Return whether a setting, by its whole key, can make a difference to any result.

    The others say where things run and are kept.
    """
    return not key.startswith(OF_PLACES)


def _reset(group: Any, *names: str) -> Any:
    """Return a group of settings with some of them at their defaults."""
    fresh = type(group)()
    return dataclasses.replace(group, **{name: getattr(fresh, name) for name in names})


def fingerprint(config: Config) -> str:
    """Return the SHA-256 of all that determines the result: not where it runs or is stored."""
    return _digest(_determining(config))


def pretrain_fingerprint(config: Config) -> str:
    """Return the SHA-256 of all that determines the pre-training: adaptation is left out.

    Methods that differ only in what a new client trains have it in common.
    """
    told, record = _determining(config), config.method.record
    told.pop("adapt")
    told["method"] |= {"name": [record.has_embedding, record.has_local_layers, record.is_federated]}
    return _digest(told)


def _determining(config: Config) -> dict[str, Any]:
    told = {
        group: {name: value for name, value in values.items() if determines(f"{group}.{name}")}
        if isinstance(values, dict)
        else values
        for group, values in canonical(config).as_dict().items()
        if determines(f"{group}.")
    }
    if 64 % config.model.width == 0:  # networks of these widths were once normalised otherwise
        told["model"]["num_norm_groups"] = num_norm_groups(config.model.width)
    if config.data.name != "folder":  # of a user's own images the folder is all that is known
        told["data"].pop("path")
    if told["client"]["compression"] == LATER["client.compression"]:
        del told["client"]["top_k_fraction"]
    for key, before in LATER.items():
        group, _, name = key.partition(".")
        if told[group][name] == before:
            del told[group][name]
    return told


def _digest(told: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
