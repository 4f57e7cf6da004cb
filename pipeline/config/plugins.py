"""The objects from outside that a configuration names."""

from pathlib import Path
from typing import Any

from pipeline.config.data import OTHER_DATASETS
from pipeline.config.schema import Config
from spire_core.config.eval import OTHER_METRICS
from spire_core.config.method import OTHER_METHODS
from spire_core.errors import ConfigError
from spire_core.plugins import NAME, NOUNS, Plugin, Plugins

ALL_PLUGINS: tuple[Plugins, ...] = (OTHER_METHODS, OTHER_DATASETS, OTHER_METRICS)


def named_outside(settings: Any) -> list[tuple[Plugins, str]]:
    """Return the names of methods, data sets and metrics that SPIRE lacks in plain settings.

    Each comes with the objects of its kind. What is damaged names none.
    """
    named = [(OTHER_METHODS, _at(settings, "method", "name"))]
    named += [(OTHER_DATASETS, _at(settings, "data", "name"))]
    metrics = _at(settings, "eval", "metrics")
    if isinstance(metrics, list | tuple):
        named += [(OTHER_METRICS, name) for name in metrics]
    return [
        (plugins, name)
        for plugins, name in named
        if isinstance(name, str) and NAME.fullmatch(name) and name not in plugins.ours
    ]


def _at(settings: Any, *keys: str) -> Any:
    for key in keys:
        settings = settings.get(key) if isinstance(settings, dict) else None
    return settings


def plugins_of(config: Config) -> list[Plugin]:
    """Return the method, the data set and the metrics of a configuration that are not SPIRE's."""
    found = (plugins.find(name) for plugins, name in named_outside(config.as_dict()))
    return [plugin for plugin in found if plugin is not None]


def check_installed(settings: Any, path: Path) -> None:
    """Raise ConfigError if stored settings name an object whose package is missing, or unusable.

    `path`: the file that holds them.
    """
    for plugins, name in named_outside(settings):
        if plugins.find(name) is None:
            raise ConfigError(
                f"expected the package of the {NOUNS[plugins.kind]} {name}, which {path} names, "
                "got none here: install it"
            )


def check_reachable(config: Config) -> None:
    """Raise ConfigError for an object that this process has registered: Ray's workers lack it."""
    for plugin in plugins_of(config):
        if not plugin.package:
            raise ConfigError(
                f"expected an installed package with the {plugin.kind} {plugin.name!r}, got one "
                "that this process has registered, which Ray's workers lack: name it as an entry "
                "point (docs/extending.md), or run it with resources.pool=local"
            )
