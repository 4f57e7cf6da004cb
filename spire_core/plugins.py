"""Methods, data sets, partitions and metrics that other packages bring, by name.

A package names them as Python entry points, in the groups `spire.methods`, `spire.datasets`,
`spire.partitions` and `spire.metrics`. The package with a name alone is imported, when somebody
asks for the name. `register` gives a name to this process alone.
"""

from collections.abc import Collection
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from spire_core.errors import ConfigError


@dataclass(frozen=True)
class Plugin:
    """An object from outside under its name; `package` is "" if this process has registered it."""

    kind: str
    name: str
    value: Any
    package: str
    version: str


class Plugins:
    """All objects of one kind, such as "method" or "dataset", that SPIRE lacks itself.

    `ours` are the names that SPIRE has.
    """

    def __init__(self, kind: str, ours: Collection[str]) -> None:
        self.kind, self.ours = kind, ours
        self._found: dict[str, Plugin | None] = {}

    def find(self, name: str) -> Plugin | None:
        """Return the object of a name, None if nobody brings one.

        ConfigError if its package cannot be imported.
        """
        if name not in self._found and name not in self.ours:
            entry = next(iter(entry_points(group=f"spire.{self.kind}s", name=name)), None)
            self._found[name] = None if entry is None else self._loaded(entry)
        return self._found.get(name)

    def _loaded(self, entry: Any) -> Plugin:
        try:
            value = entry.load()
        except Exception as error:  # a stranger's code can raise anything
            raise ConfigError(
                f"expected the {self.kind} {entry.name} of the package {entry.dist.name}, got "
                f"{type(error).__name__} ({error}): mend or uninstall that package"
            ) from error
        return Plugin(self.kind, entry.name, value, entry.dist.name, entry.dist.version)

    def names(self) -> list[str]:
        """Return the names that packages and this process bring, in order; imports nothing."""
        found = (name for name, plugin in self._found.items() if plugin is not None)
        return sorted({*found, *entry_points(group=f"spire.{self.kind}s").names})

    def register(self, name: str, value: Any, version: str) -> None:
        """Give an object a name in this process; ConfigError for a name that SPIRE has."""
        if name in self.ours:
            raise ConfigError(
                f"expected a {self.kind} with a name that SPIRE lacks, got {name}: rename it"
            )
        self._found[name] = Plugin(self.kind, name, value, "", version)
