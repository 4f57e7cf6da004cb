"""The objects from outside that a configuration names."""

from pipeline.config.data import OTHER_DATASETS
from pipeline.config.schema import Config
from spire_core.config.eval import OTHER_METRICS
from spire_core.config.method import OTHER_METHODS
from spire_core.config.partition import OTHER_PARTITIONS
from spire_core.errors import ConfigError
from spire_core.plugins import Plugin, Plugins

ALL_PLUGINS: tuple[Plugins, ...] = (
    OTHER_METHODS,
    OTHER_DATASETS,
    OTHER_PARTITIONS,
    OTHER_METRICS,
)


def plugins_of(config: Config) -> list[Plugin]:
    """Return the method, data set, partition and metrics of a configuration from outside."""
    found = [OTHER_METHODS.find(config.method.name), OTHER_DATASETS.find(config.data.name)]
    found.append(OTHER_PARTITIONS.find(config.partition.name))
    found += [OTHER_METRICS.find(name) for name in config.eval.metrics]
    return [plugin for plugin in found if plugin is not None]


def check_reachable(config: Config) -> None:
    """Raise ConfigError for an object that this process has registered: Ray's workers lack it."""
    for plugin in plugins_of(config):
        if not plugin.package:
            raise ConfigError(
                f"expected an installed package with the {plugin.kind} {plugin.name!r}, got one "
                "that this process has registered, which Ray's workers lack: name it as an entry "
                "point (docs/extending.md), or run it with resources.pool=local"
            )
