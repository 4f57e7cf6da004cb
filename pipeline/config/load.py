"""How settings are read: presets, YAML files and words `key=value`, merged by OmegaConf.

A group given as a bare word sets its name: `method=spire` means `method.name=spire`. OmegaConf is
imported as it is needed: actors get records that are read already.
"""

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache, reduce
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

from pipeline.config.schema import Config
from spire_core.config.checks import hint, require
from spire_core.errors import ConfigError

T = TypeVar("T")
NAMED_GROUPS = ("data", "partition", "method")
SETTINGS = "docs/settings.md lists all"
MAX_NODES = 1_000_000  # of YAML in a list or a file: a vocabulary has many words
PRESETS = resources.files("pipeline.config") / "presets"


def preset_names() -> list[str]:
    """Return the names of the presets that ship with the package."""
    return sorted(Path(file.name).stem for file in PRESETS.iterdir() if file.name.endswith(".yaml"))


def load_config(preset: str | None, words: Sequence[str] = ()) -> Config:
    """Return a preset with words `key=value` applied in order; ConfigError if it is wrong."""
    return overridden(Config() if preset is None else _preset(str(preset)), words)


@cache
def _preset(name: str) -> Config:
    known = preset_names()
    require(name in known, f"a preset out of {', '.join(known)}", repr(name), hint(name, known))
    return config_from_dict(read_yaml(PRESETS / f"{name}.yaml"))


def overridden(config: Config, words: Sequence[str]) -> Config:
    """Return a configuration with words `key=value`; ConfigError, with all that are wrong, if any.

    One of tau and local_epochs withdraws the other of the layers below.
    """
    found = _tried(config, words)
    if isinstance(found, Config):
        return found
    faults, words = [found], [*words]
    while isinstance(found, ConfigError):  # leave out a word without which this fault is gone
        fewer = [[one for one in words if one is not word] for word in words]
        tried = [(_tried(config, others), others) for others in fewer]
        gone = [t for t in tried if isinstance(t[0], Config) or _kind(t[0]) != _kind(found)]
        if not gone:
            break
        # At best no fault is left: another one may be due to the word that was left out.
        found, words = min(gone, key=lambda t: isinstance(t[0], ConfigError))
        faults += [found] if isinstance(found, ConfigError) else []
    if len(faults) == 1:
        raise faults[0]
    told = "; ".join(f"({i}) {fault}" for i, fault in enumerate(faults, 1))
    raise ConfigError(f"{len(faults)} settings are wrong: {told}") from faults[0]


def _tried(config: Config, words: Sequence[str]) -> Config | ConfigError:
    try:
        return build(config, _with_one_length(read_words(words))) if words else config
    except ConfigError as error:
        return error


def _kind(error: ConfigError) -> str:
    """Return an error's text without its numbers, which move as other settings do."""
    return re.sub(r"\d+", "", str(error))


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Return the configuration that `Config.as_dict` came from, every value checked by its type."""
    is_resolved = "${" not in write_value(values)  # what came with a run reads no environment here
    require(is_resolved, "a stored configuration that is resolved", "${", "write values out")
    return build(Config(), _with_one_length(values))


def _with_one_length(settings: Mapping[str, Any]) -> dict[str, Any]:
    federation, lengths = settings.get("federation"), ("tau", "local_epochs")
    if isinstance(federation, dict) and len([x for x in lengths if federation.get(x)]) == 1:
        federation = dict.fromkeys(lengths) | federation
    return {**settings, **({"federation": federation} if federation is not None else {})}


def build(base: T | type[T], values: Mapping[str, Any], listed: str = SETTINGS) -> T:
    """Return a record of settings with `values`, nested by group, laid over it.

    `base` is a record or, for the defaults, its class. ConfigError names the key that is unknown,
    or whose value does not fit; `listed` says where all keys are found.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    schema = _schema(base)
    try:
        return cast(T, OmegaConf.to_object(OmegaConf.merge(schema, OmegaConf.create({**values}))))
    except OmegaConfBaseException as error:
        found, key = error, error.full_key
    for one, value in flattened(values).items():  # not every error of OmegaConf has its key
        try:
            OmegaConf.merge(schema, nested(one, value))
        except OmegaConfBaseException as error:
            found, key = error, error.full_key or one
            break
    reason = str(found).splitlines()[0].replace("'$VALUE' of type '$VALUE_TYPE'", "in the list")
    if meant := [known for known in known_keys(base) if known.endswith(f".{key}")]:
        reason += f"; did you mean {' or '.join(meant)}?"
    raise ConfigError(f"expected settings that fit, got {key}: {reason} ({listed})") from found


@lru_cache
def _schema(base: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.structured(base)


def read_words(words: Iterable[str]) -> dict[str, Any]:
    """Return words `key=value` as settings by group, a later one in place of an earlier one."""
    return reduce(merged, (nested(*split_word(word)) for word in words), {})


def split_word(word: str) -> tuple[str, Any]:
    """Return the key and the value, in YAML, of a word `key=value`; ConfigError if it is none.

    A budget of privacy without a value is refused: null would turn privacy off.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    key, sep, text = word.partition("=")
    is_word = bool(sep) and all(key.split("."))
    require(is_word, "settings as key=value", repr(word), "such as client.lr=0.001")
    is_epsilon = key.startswith("privacy.") and key.endswith(".epsilon")
    advice = f"give one, or write {key}=null for no privacy"
    require(not is_epsilon or text.strip() != "", f"a value after {key}=", "nothing", advice)
    try:
        if text.lstrip()[:1] in ("[", "{"):
            value = _plain(OmegaConf.create(text, max_yaml_expanded_nodes=MAX_NODES))
        else:
            value = _plain(OmegaConf.from_dotlist([f"value={text}"]))["value"]
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"expected {key} in YAML, got {text}: {_line(error)}") from error
    return (f"{key}.name" if key in NAMED_GROUPS else key), value


def merged(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of two layers by group; where both have one, that of the upper layer."""
    both = lower | upper
    for key in lower.keys() & upper.keys():
        if isinstance(lower[key], dict) and isinstance(upper[key], dict):
            both[key] = merged(lower[key], upper[key])
    return both


def read_yaml(path: Any, known: str = "a YAML file", names: Sequence[str] = ()) -> dict[str, Any]:
    """Return the settings in a YAML file; ConfigError, with what is `known`, if it is none.

    `names` may stand in place of a file, and one of them may have been meant.
    """
    try:
        return read_text(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "which is no text"
        advice = hint(path.name, names) if names else "name one that exists"
        raise ConfigError(f"expected {known}, got {path} ({reason}): {advice}") from error


def read_text(text: str, source: str) -> dict[str, Any]:
    """Return the settings of a YAML text; ConfigError, with its `source`, if it holds none."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        values = _plain(OmegaConf.create(text or "{}", max_yaml_expanded_nodes=MAX_NODES))
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"expected YAML settings in {source}, got {_line(error)}: mend it") from (
            error
        )
    require(isinstance(values, dict), f"KEY: VALUE settings in {source}", values, "mend it")
    return {
        key: {"name": value} if key in NAMED_GROUPS and isinstance(value, str) else value
        for key, value in values.items()
    }


def _plain(settings: Any) -> Any:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(settings, resolve=True)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def write_value(value: Any) -> str:
    """Return a value in JSON, which YAML reads."""
    return json.dumps(value, ensure_ascii=False)


def write_yaml(values: Mapping[str, Any], **style: Any) -> str:
    """Return settings as a YAML text; `style` as PyYAML takes it."""
    import yaml

    return yaml.safe_dump(dict(values), allow_unicode=True, **style).strip()


def nested(key: str, value: Any) -> dict[str, Any]:
    """Return the setting `a.b` as {a: {b: value}}."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings by their whole key, such as federation.tau, however they are nested."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        is_group = isinstance(value, Mapping)
        flat |= flattened(value, f"{prefix}{key}.") if is_group else {f"{prefix}{key}": value}
    return flat


def known_keys(kind: Any, prefix: str = "") -> Iterator[str]:
    """Yield the whole key of each setting of a record, or of its class."""
    for field in dataclasses.fields(kind):
        if dataclasses.is_dataclass(field.type):
            yield from known_keys(field.type, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name
