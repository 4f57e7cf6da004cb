"""The configuration of one experiment: its schema, its presets, and how overrides are merged in.

A group given as a bare word sets its name: `method=spire` means `method.name=spire`.
"""

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.datasets import DataConfig
from pipeline.identity import fingerprint, pretrain_fingerprint
from pipeline.limits import EXPERIMENT, check_ranges
from pipeline.plain_yaml import check_plain
from pipeline.resources import ResourcesConfig
from pipeline.runs import TrackingConfig
from spire_core.adapt import AdaptConfig
from spire_core.errors import ConfigError
from spire_core.evaluate import EvalConfig
from spire_core.methods import MethodConfig
from spire_core.partition import PartitionConfig
from spire_core.schedule import DiffusionConfig
from spire_core.server import ServerConfig
from spire_core.training import ClientConfig
from spire_core.unet import ModelConfig

NAMED_GROUPS = ("data", "partition", "method")
MAX_KEY = 200  # characters
ON_CLIENT_ERROR = ("retry", "drop", "fail")
Built = TypeVar("Built")


@dataclass(frozen=True)
class FederationConfig:
    """Who takes part and for how long; a round ends with one synchronization of the backbone.

    `tau`: optimizer steps between two synchronizations; `local_epochs`: the same span as passes
    over the client's data. Exactly one of the two is given. `on_client_error`: what becomes of a
    client that fails in a round or sends an update that cannot be used: "retry" its work, "drop" it
    from this round's average, or "fail". `client_timeout_s`: seconds after which a client counts as
    failed, None for never. `max_update_norm`: the most that a client may move the backbone in a
    round, as an L2 norm.

    A scenario of pre-training, drawn from the seed: `drop_rate` is the chance that a client of a
    cohort never answers in a round, `straggler_rate` the chance that it completes only the share
    `straggler_work` of its local steps (rounded, at least one; Li et al. 2020, FedProx).
    """

    num_clients: int = 24
    num_new_clients: int = 3
    cohort_size: int = 4
    num_rounds: int = 400
    tau: int | None = None
    local_epochs: int | None = None
    on_client_error: str = "retry"
    client_timeout_s: float | None = None
    max_update_norm: float | None = None
    drop_rate: float = 0.0
    straggler_rate: float = 0.0
    straggler_work: float = 0.5

    def __post_init__(self) -> None:
        if self.on_client_error not in ON_CLIENT_ERROR:
            raise ConfigError(
                f"expected federation.on_client_error as {', '.join(ON_CLIENT_ERROR)}, got "
                f"{self.on_client_error!r}: choose one of them"
            )
        for name in ("client_timeout_s", "max_update_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(
                    f"expected federation.{name} above 0, got {value}: null sets no limit"
                )
        if not 0.0 <= self.drop_rate < 1.0:
            raise ConfigError(
                f"expected federation.drop_rate in [0, 1), got {self.drop_rate}: somebody has to "
                "answer"
            )
        if not 0.0 <= self.straggler_rate <= 1.0 or not 0.0 < self.straggler_work <= 1.0:
            raise ConfigError(
                "expected federation.straggler_rate in [0, 1] and federation.straggler_work above "
                f"0 and at most 1, got {self.straggler_rate} and {self.straggler_work}: change them"
            )
        if self.num_clients < 1 or self.num_new_clients < 0 or self.num_rounds < 1:
            raise ConfigError(
                "expected federation.num_clients and federation.num_rounds of at least 1, got "
                f"{self.num_clients} and {self.num_rounds}: raise them"
            )
        if not 1 <= self.cohort_size <= self.num_clients:
            raise ConfigError(
                f"expected federation.cohort_size in 1..{self.num_clients}, got "
                f"{self.cohort_size}: a cohort is drawn from federation.num_clients"
            )
        if (self.tau is None) == (self.local_epochs is None):
            raise ConfigError(
                f"expected one of federation.tau and federation.local_epochs, got {self.tau} and "
                f"{self.local_epochs}: both say how long a round is, so give one of them"
            )
        if (self.tau or self.local_epochs or 0) < 1:
            raise ConfigError(
                f"expected federation.tau or federation.local_epochs of at least 1, got "
                f"{self.tau or self.local_epochs}: a round takes a step"
            )


@dataclass(frozen=True)
class Config:
    """One experiment, completely."""

    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    partition: PartitionConfig = field(default_factory=PartitionConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    federation: FederationConfig = field(default_factory=lambda: FederationConfig(tau=3))
    client: ClientConfig = field(default_factory=ClientConfig)
    server: ServerConfig = field(default_factory=ServerConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    resources: ResourcesConfig = field(default_factory=ResourcesConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        check_ranges(self, EXPERIMENT)
        if self.server.aggregation != "mean" and self.federation.cohort_size < 3:
            raise ConfigError(
                "expected federation.cohort_size of at least 3 with server.aggregation="
                f"{self.server.aggregation}, got {self.federation.cohort_size}: of two updates "
                "nobody can tell which one is wrong"
            )
        if self.server.aggregation != "mean" and self.client.compression == "top_k":
            raise ConfigError(
                "expected server.aggregation=mean with client.compression=top_k, got "
                f"{self.server.aggregation}: most clients leave a coordinate out, so the middle "
                "one never moves it"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the resolved configuration as plain nested dictionaries."""
        return dataclasses.asdict(self)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that determines the result: not where it runs, is tracked or is stored."""
        return fingerprint(self)

    @property
    def pretrain_fingerprint(self) -> str:
        """SHA-256 of all that determines the pre-training."""
        return pretrain_fingerprint(self)


def preset_names() -> list[str]:
    """Return the names of the presets that ship with the package."""
    folder = resources.files("pipeline") / "presets"
    names = (path.name for path in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def _load_preset(name: str) -> DictConfig:
    if name not in preset_names():
        raise ConfigError(
            f"expected a preset out of {', '.join(preset_names())}, got {name!r}: "
            f"{_hint(name, preset_names())}"
        )
    text = (resources.files("pipeline") / "presets" / f"{name}.yaml").read_text()
    loaded = OmegaConf.create(text)
    assert isinstance(loaded, DictConfig)
    return loaded


def _hint(name: str, known: Sequence[str]) -> str:
    meant = name.replace("learning_rate", "lr")  # no match by letters
    near = difflib.get_close_matches(meant, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else "choose one of them"


def _known_keys(prefix: str, node: dict[str, Any]) -> list[str]:
    keys = []
    for key, value in node.items():
        keys += _known_keys(f"{prefix}{key}.", value) if isinstance(value, dict) else [prefix + key]
    return keys


def _parse_override(text: str) -> DictConfig:
    key, sep, value = text.partition("=")
    if not sep or not key.strip() or len(key) > MAX_KEY:
        raise ConfigError(
            f"expected an override as key=value, got {text!r}: such as client.lr=0.001"
        )
    check_plain(value, key)
    if key in NAMED_GROUPS:
        key = f"{key}.name"
    try:
        return OmegaConf.from_dotlist([f"{key}={value}"])
    except Exception as error:  # YAML and OmegaConf each have their own family of errors
        told = f"expected a value for {key}, got {value!r}: {error}".splitlines()[0]
        raise ConfigError(told) from error


def _parse_overrides(overrides: Sequence[str]) -> DictConfig:
    try:
        parsed = OmegaConf.merge(*(_parse_override(text) for text in overrides))
    except OmegaConfBaseException as error:
        told = f"expected overrides that fit together, got {' '.join(overrides)}: {error}"
        raise ConfigError(told.splitlines()[0]) from error
    assert isinstance(parsed, DictConfig)
    return parsed


def _check_shape(base: dict[str, Any], layer: Any, known: Sequence[str], prefix: str = "") -> None:
    """Raise ConfigError where a layer's key is unknown, or its value of another shape."""
    if not isinstance(layer, dict):
        group = prefix.rstrip(".")
        raise ConfigError(
            f"expected settings under {group}, got {layer!r}: such as {prefix}KEY=VALUE"
        )
    for key, value in layer.items():
        if key not in base:
            name = f"{prefix}{key}"
            raise ConfigError(f"expected a known key, got {name!r}: {_hint(name, known)}")
        if isinstance(base[key], dict):
            _check_shape(base[key], value, known, f"{prefix}{key}.")
        elif isinstance(value, dict):
            raise ConfigError(
                f"expected one value for {prefix}{key}, got settings {value}: it is not a group"
            )
        elif isinstance(base[key], list | tuple) and not isinstance(value, list):
            raise ConfigError(
                f"expected a list for {prefix}{key}, got {value!r}: such as {prefix}{key}=[1,2]"
            )


def _merge(base: DictConfig, layer: DictConfig, known: Sequence[str]) -> DictConfig:
    """Merge one layer strictly; one of tau and local_epochs withdraws the other in layers below."""
    plain: Any = OmegaConf.to_container(layer)
    _check_shape(OmegaConf.to_container(base), plain, known)  # type: ignore[arg-type]
    given = plain.get("federation", {})
    tau, epochs = given.get("tau"), given.get("local_epochs")
    if tau is not None and epochs is None:
        base.federation.local_epochs = None
    if epochs is not None and tau is None:
        base.federation.tau = None
    try:
        merged = OmegaConf.merge(base, layer)
        OmegaConf.resolve(merged)
    except OmegaConfBaseException as error:
        raise ConfigError(f"expected a valid setting, got: {str(error).splitlines()[0]}") from error
    assert isinstance(merged, DictConfig)
    return merged


def load_config(preset: str | None, overrides: Sequence[str] = ()) -> Config:
    """Return a preset with overrides `key=value` applied in order; ConfigError if it is wrong."""
    return overridden(Config() if preset is None else _preset_config(preset), overrides)


@cache
def _preset_config(preset: str) -> Config:
    return _layered(Config(), _load_preset(preset))


def overridden(config: Config, overrides: Sequence[str]) -> Config:
    """Return a configuration with overrides `key=value`; ConfigError if one is wrong."""
    return _layered(config, _parse_overrides(overrides)) if overrides else config


def _layered(base: Config, layer: DictConfig) -> Config:
    values = base.as_dict()
    merged = _merge(OmegaConf.create(values), layer, _known_keys("", values))
    return config_from_dict(OmegaConf.to_container(merged, resolve=True))  # type: ignore[arg-type]


def read_settings(text: str, source: str) -> dict[str, Any]:
    """Return the settings of a YAML text as plain values; ConfigError if it holds no settings."""
    check_plain(text, source)
    try:
        loaded = OmegaConf.to_container(OmegaConf.create(text), resolve=True)
    except Exception as error:  # YAML and OmegaConf each have their own family of errors
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"expected YAML settings in {source}, got {told}: correct it") from error
    if not isinstance(loaded, dict) or not _has_text_keys(loaded):
        raise ConfigError(
            f"expected KEY: VALUE settings in {source}, got {loaded!r:.200}: correct it"
        )
    return loaded  # type: ignore[return-value]


def _has_text_keys(values: Any) -> bool:
    if isinstance(values, dict):
        return all(isinstance(k, str) and _has_text_keys(v) for k, v in values.items())
    return not isinstance(values, list) or all(map(_has_text_keys, values))


def split_override(text: str) -> tuple[str, Any]:
    """Return the key and the plain value of an override `key=value`; ConfigError if it is none."""
    key, _, value = text.partition("=")
    _parse_override(text)
    parsed: Any = OmegaConf.to_container(_parse_override(f"x={value}"))
    return key, parsed["x"]


def merge_settings(
    kind: type[Built], base: dict[str, Any], text: str, source: str, overrides: Sequence[str]
) -> Built:
    """Return a dataclass with the values of `base`, of a YAML text and of overrides, in order.

    As strict as `load_config`: ConfigError for an unknown key or a value of the wrong shape.
    """
    merged = OmegaConf.create(base)
    known = _known_keys("", base)
    layers = [OmegaConf.create(read_settings(text, source))]
    if overrides:
        layers.append(_parse_overrides(overrides))
    for layer in layers:
        merged = _merge(merged, layer, known)  # type: ignore[arg-type]
    return build(kind, OmegaConf.to_container(merged, resolve=True))


def config_from_dict(values: dict[str, Any]) -> Config:
    """Return the configuration that `Config.as_dict` came from, every value checked by its type."""
    return build(Config, values, "")


def build(kind: type[Built], values: Any, prefix: str = "") -> Built:
    """Return a record of settings out of plain values; ConfigError where one does not fit."""
    if not isinstance(values, dict):
        raise ConfigError(
            f"expected settings under {prefix.rstrip('.')}, got {values!r}: "
            f"such as {prefix}KEY=VALUE"
        )
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in values.keys() - fields.keys():
        raise ConfigError(f"expected a known key, got {prefix + key!r}: {_hint(key, list(fields))}")
    return kind(**{k: _typed(fields[k].type, v, prefix + k) for k, v in values.items()})


def _typed(kind: Any, value: Any, key: str) -> Any:
    """Return a value as its field's type, or raise ConfigError."""
    if dataclasses.is_dataclass(kind):
        return build(kind, value, key + ".")  # type: ignore[arg-type]
    options = getattr(kind, "__args__", (kind,)) if not hasattr(kind, "__origin__") else (kind,)
    for option in options:
        converted = _convert(option, value)
        if converted is not _REFUSED:
            return converted
    name = getattr(kind, "__name__", str(kind)).replace("None", "null")
    if isinstance(value, int | float) and not -MAX_NUMBER < value < MAX_NUMBER:
        name += " below 2^63"
    raise ConfigError(f"expected {key} as {name}, got {value!r}: change its value")


_REFUSED = object()
MAX_NUMBER = 2**63  # what arrays, files and databases take


def _convert(kind: Any, value: Any) -> Any:
    if kind is dict:
        return value if isinstance(value, dict) else _REFUSED
    if getattr(kind, "__origin__", None) is tuple:
        args = kind.__args__
        if not isinstance(value, list | tuple):
            return _REFUSED
        inner = args[:1] * len(value) if args[-1] is Ellipsis else args
        items = [_convert(k, v) for k, v in zip(inner, value, strict=False)]
        same = len(inner) == len(value)
        return _REFUSED if not same or any(i is _REFUSED for i in items) else tuple(items)
    if isinstance(value, int | float) and not -MAX_NUMBER < value < MAX_NUMBER:
        return _REFUSED  # nor NaN
    if isinstance(value, str) and "${" in value:
        return _REFUSED  # OmegaConf would look up what it names, such as environment variables
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if kind is int and isinstance(value, bool):
        return _REFUSED
    return value if isinstance(value, kind) else _REFUSED
