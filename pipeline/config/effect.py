"""Settings of a new run that would have no effect, or a wrong one, refused in a sentence.

Another setting switches them off (`switches`). What a method never reads is not refused: people
give all methods the same settings. Finished runs are not asked again.
"""

from collections.abc import Iterator, Sequence

from pipeline.config.build import flattened
from pipeline.config.equivalence import reads
from pipeline.config.load import load_config, read_overrides
from pipeline.config.place_switches import OF_RUNS, PLACES
from pipeline.config.schema import Config
from pipeline.config.secure_rules import check_dropping
from pipeline.config.switches import OF_RESULTS, Switch, off_switch
from pipeline.config.tracking import (
    MAX_EXPERIMENT,
    MAX_RUN_NAME,
    TrackingConfig,
    sqlite_path,
    tracking_uri,
)
from spire_core.config.checks import require
from spire_core.config.client import WIDE
from spire_core.config.privacy import refuse_label
from spire_core.errors import ConfigError
from spire_core.methods import CLIENT_EMB

ALL_SWITCHES = (*OF_RESULTS, *PLACES)
INSTEAD = {  # what takes a setting's place where it has no effect: in a private fit, of own images
    "adapt.epochs": "privacy.adapt.steps",
    "adapt.lr": "privacy.adapt.lr",
    "adapt.batch_size": "privacy.adapt.batch_size",
    "adapt.draws": "privacy.adapt.draws",
    "data.root": "data.path",
}


def load_typed(preset: str | None, overrides: Sequence[str]) -> Config:
    """Return a preset with overrides that all count; ConfigError if one is wrong or has no effect.

    The preset's own settings need not count. ConfigError as `check_beginning` says, too.
    """
    config = load_config(preset, overrides)
    check_effect(config, overrides)
    check_beginning(config)
    return config


def check_beginning(config: Config) -> None:
    """Raise ConfigError for what a new run had better not begin with; older runs may have it."""
    refuse_label(config.privacy)
    check_null_text(config)
    check_entrance(config)
    check_mean(config)
    check_dropping(config.federation, config.method, config.privacy)
    check_private_groups(config)
    check_names(config.tracking)


def check_names(tracking: TrackingConfig) -> None:
    """Raise ConfigError for a name that a database of MLflow has no room for, or a wrong one.

    Wrong is MLflow's own experiment in a database of ours: its artifacts lie elsewhere.
    """
    limits = {"experiment": MAX_EXPERIMENT, "run_name": MAX_RUN_NAME}
    for name, most in limits.items():
        num = len(getattr(tracking, name) or "")
        expected = f"at most {most} characters in tracking.{name}"
        require(num <= most or not tracking.enabled, expected, num, "choose a shorter one")
    is_own = tracking.enabled and tracking.experiment == "Default"
    require(
        not is_own or sqlite_path(tracking_uri(tracking)) is None,
        "another tracking.experiment than Default",
        "that",
        "MLflow keeps its artifacts in mlruns of the current folder; the usual one is spire",
    )


def check_null_text(config: Config) -> None:
    """Raise ConfigError if prompts are guided away from a null text that no round trains."""
    is_guided = config.model.text != "none" and config.text_guidance != 1.0
    require(
        not is_guided or config.has_null_text,
        f"client.text_dropout above 0 with eval.text_guidance={config.text_guidance}",
        config.client.text_dropout,
        "only images shown without captions train the prediction that guidance starts from; set "
        "0.1, or eval.text_guidance=1",
    )


def check_entrance(config: Config) -> None:
    """Raise ConfigError if an embedding and its map into a pre-trained model both stay zero.

    Each has its gradient from the other. Other embeddings begin with `client.emb_init_std`, those
    of episodes at zero.
    """
    method, client = config.method, config.client
    starts_at_zero = config.model.backbone is not None and method.projection == "learnt"
    begins_at_zero = method.only_plays or client.emb_init_std == 0
    require(
        not (method.record.has_embedding and starts_at_zero and begins_at_zero)
        or client.emb_noise > 0,
        "embeddings that are not all zero at first with model.backbone",
        f"method.episodes={method.episodes:g} and client.emb_init_std={client.emb_init_std:g}",
        "their map into the model is zero at first too, and neither would ever train: set "
        "client.emb_noise above 0, or method.episodes below 1 and client.emb_init_std above 0",
    )


def check_mean(config: Config) -> None:
    """Raise ConfigError if new clients start at a mean of embeddings that never train."""
    require(
        config.mean_part != CLIENT_EMB or not config.method.only_plays,
        "method.episodes below 1 with adapt.init=mean",
        f"{config.method.episodes:g}",
        "clients that play new ones in all of their rounds train no embedding of their own: set "
        "adapt.init=zero, where episodes begin",
    )


def check_private_groups(config: Config) -> None:
    """Raise ConfigError if private rounds compute clients in groups, whose members share rounding.

    Epsilon does not include by how much a client moves the others' summands (docs/privacy.md).
    Simulated rounds promise nothing to their clients, and may have groups.
    """
    engine, privacy = config.client.engine, config.privacy
    sizes = (config.federation.cohort_size, privacy.noise_key is not None)
    has_promise = privacy.rounds.is_on and not privacy.rounds.is_simulated(*sizes)
    require(
        not has_promise or config.resolved_client.engine == "loop",
        "client.engine=loop with privacy.rounds.epsilon",
        f"{engine}, which groups clients below a width of {WIDE}" if engine == "auto" else engine,
        "a client moves the rounding of others in its group, and epsilon does not include that",
    )


def check_effect(config: Config, overrides: Sequence[str]) -> None:
    """Raise ConfigError if another setting of a run switches an override off."""
    for fault in without_effect(config, overrides, (*ALL_SWITCHES, *OF_RUNS)).values():
        raise ConfigError(fault)


def without_effect(
    config: Config, overrides: Sequence[str], switches: Sequence[Switch] = ALL_SWITCHES
) -> dict[str, str]:
    """Return, by its key, what is to be said of each override that has no effect."""
    faults = ((key, _fault(key, config, switches)) for key in typed_keys(config, overrides))
    return {key: fault for key, fault in faults if fault is not None}


def typed_keys(config: Config, overrides: Sequence[str]) -> Iterator[str]:
    """Yield the whole key of each override whose value is not the default."""
    values, defaults = flattened(config.as_dict()), flattened(Config().as_dict())
    for key in flattened(read_overrides(overrides)):
        if values.get(key) != defaults.get(key):
            yield key


def _fault(key: str, config: Config, switches: Sequence[Switch]) -> str | None:
    """Return what is to be said of a setting that another one switches off; None if it counts."""
    if not reads(config.method.record, key):
        return None
    switch = off_switch(key, config, switches)
    if switch is None:
        return None
    advice = f"set both, or leave out {key}, which has no effect alone"
    if key in INSTEAD:
        advice = f"did you mean {INSTEAD[key]}?"
    return f"expected {switch.needs} with {key}, got {_as_typed(switch.got(config))}: {advice}"


def _as_typed(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)
