"""Settings that count only where another setting lets them, as one table.

`equivalence` puts those that are off at their defaults, so that fingerprints do not hold them.
`effect` refuses one of them that is typed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from pipeline.config.schema import Config
from spire_core.config.partition import INDEPENDENT
from spire_core.config.privacy import PrivateAdaptConfig, PrivateRoundsConfig

OWN_NETWORK = ("width", "multipliers", "num_blocks", "attention", "cond_dim", "space_to_depth")
ENTRANCE_KEYS = ("method.entrance", "method.projection")


@dataclass(frozen=True)
class Switch:
    """Settings, by their whole keys, that only count while `is_on`.

    `needs`: the setting that lets them count, as people type it. `got`: what it is instead.
    """

    keys: tuple[str, ...]
    needs: str
    is_on: Callable[[Config], bool]
    got: Callable[[Config], object]


def _keys(group: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{group}.{name}" for name in names)


def _all_keys(group: str, kind: type) -> tuple[str, ...]:
    return _keys(group, *(field.name for field in fields(kind)))


SWITCHES = (
    Switch(
        ("client.private_moments",),
        "client.opt_state=average",
        lambda c: c.client.opt_state == "average",
        lambda c: c.client.opt_state,
    ),
    Switch(
        ("client.top_k_fraction",),
        "client.compression=top_k",
        lambda c: c.client.compression == "top_k",
        lambda c: c.client.compression,
    ),
    Switch(
        ("client.group_size",),
        "client.engine=grouped",
        lambda c: c.resolved_client.engine != "loop",
        lambda c: c.resolved_client.engine,
    ),
    Switch(
        ENTRANCE_KEYS,
        "model.backbone=FOLDER",
        lambda c: c.model.backbone is not None,
        lambda c: c.model.backbone,
    ),
    Switch(
        (
            *_keys("model", *OWN_NETWORK),
            *_keys("diffusion", "schedule", "num_timesteps", "prediction"),
        ),
        "model.backbone=null",
        lambda c: c.model.backbone is None,
        lambda c: c.model.backbone,
    ),
    Switch(
        ("data.clients", "data.captions"),
        "data.metadata=FILE",
        lambda c: c.data.metadata is not None,
        lambda c: c.data.metadata,
    ),
    Switch(
        ("model.words",),
        "model.text=words",
        lambda c: c.model.text == "words",
        lambda c: c.model.text,
    ),
    Switch(
        ("model.text_encoder", "model.text_dim"),
        "model.text=sentences",
        lambda c: c.model.text == "sentences",
        lambda c: c.model.text,
    ),
    Switch(
        ("client.text_dropout", "eval.text_guidance"),
        "model.text=words or sentences",
        lambda c: c.model.text != "none",
        lambda c: c.model.text,
    ),
    Switch(
        ("eval.reference",),
        "an eval.extractor",
        lambda c: c.eval.extractor != "none",
        lambda c: c.eval.extractor,
    ),
    Switch(
        ("eval.guidance_interval",),
        "an eval.guidance other than 1, or adapt.guidance",
        lambda c: c.is_guided,
        lambda c: c.eval.guidance,
    ),
    Switch(
        ("adapt.group_size",),
        "model.dropout=0",
        lambda c: c.model.dropout == 0.0,
        lambda c: c.model.dropout,
    ),
    Switch(
        ("adapt.val_fraction",),
        "adapt.early_stopping=true or adapt.guidance",
        lambda c: c.adapt.sets_aside,
        lambda c: None,
    ),
    Switch(
        ("adapt.patience",),
        "adapt.early_stopping=true",
        lambda c: c.adapt.early_stopping,
        lambda c: c.adapt.early_stopping,
    ),
    Switch(
        ("privacy.noise_key",),
        "privacy.adapt.epsilon or privacy.rounds.epsilon",
        lambda c: c.privacy.is_on,
        lambda c: None,
    ),
    Switch(
        _all_keys("privacy.rounds", PrivateRoundsConfig),
        "privacy.rounds.epsilon",
        lambda c: c.privacy.rounds.is_on,
        lambda c: c.privacy.rounds.epsilon,
    ),
    Switch(
        _all_keys("privacy.adapt", PrivateAdaptConfig),
        "privacy.adapt.epsilon",
        lambda c: c.privacy.adapt.is_on,
        lambda c: c.privacy.adapt.epsilon,
    ),
    Switch(
        ("adapt.epochs",),
        "privacy.adapt.epsilon=null",
        lambda c: not c.privacy.adapt.is_on,
        lambda c: c.privacy.adapt.epsilon,
    ),
    Switch(  # pre-training clients train on as their own new clients do, and without privacy
        _keys("adapt", "lr", "batch_size", "draws", "schedule", "average", "emb_prior"),
        "privacy.adapt.epsilon=null or adapt.tune_epochs above 0",
        lambda c: c.scores_tuned or not c.privacy.adapt.is_on,
        lambda c: c.privacy.adapt.epsilon,
    ),
    Switch(
        ("adapt.eval_every", "adapt.group_size", "privacy.adapt.batch_size"),
        "privacy.adapt.mechanism=dp_sgd",
        lambda c: not (c.privacy.adapt.is_on and c.privacy.adapt.mechanism == "one_release"),
        lambda c: c.privacy.adapt.mechanism,
    ),
)
# Fingerprints hold these even where they are off: those of stored runs did, and a set encoder is a
# part of the network, of which a run with equal pre-training takes over every number.
IN_FINGERPRINTS = (
    Switch(
        ("federation.client_timeout_s",),
        "resources.pool=ray",
        lambda c: c.resources.pool == "ray",
        lambda c: c.resources.pool,
    ),
    Switch(
        ("model.set_encoder",),
        "method.episodes above 0",
        lambda c: c.method.episodes > 0,
        lambda c: c.method.episodes,
    ),
    Switch(
        ("server.momentum",),
        "server.optimizer=fedavgm or fedadam",
        lambda c: c.server.optimizer != "fedavg",
        lambda c: c.server.optimizer,
    ),
    Switch(
        ("partition.alpha",),
        "partition=inner_dirichlet, dirichlet or independent",
        lambda c: c.partition.name in ("inner_dirichlet", "dirichlet", INDEPENDENT),
        lambda c: c.partition.name,
    ),
    Switch(
        ("partition.classes_per_client",),
        "partition=pathological",
        lambda c: c.partition.name == "pathological",
        lambda c: c.partition.name,
    ),
    Switch(
        _keys("eval", "kid_subset_size", "kid_num_subsets", "extractor_weights"),
        "an eval.extractor",
        lambda c: c.eval.extractor != "none",
        lambda c: c.eval.extractor,
    ),
    Switch(
        ("eval.metrics",),
        "federation.num_new_clients above 0",
        lambda c: c.federation.num_new_clients > 0,
        lambda c: c.federation.num_new_clients,
    ),
)


OF_RESULTS = (*SWITCHES, *IN_FINGERPRINTS)


def off_switch(key: str, config: Config, switches: Sequence[Switch] = OF_RESULTS) -> Switch | None:
    """Return what switches a setting off, by its whole key; None if it counts.

    What a method never reads is not asked for.
    """
    return next((one for one in switches if key in one.keys and not one.is_on(config)), None)
