"""Methods, data sets and metrics that other packages bring, by name.

A package names them as Python entry points, in the groups `spire.methods`, `spire.datasets` and
`spire.metrics`. The entries are read when somebody asks for a name that SPIRE lacks, and the
package with that name alone is imported. `register` gives a name to this process alone.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from spire_core.errors import ConfigError

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")  # also a part of file names and of metrics' names
NOUNS = {"method": "method", "dataset": "data set", "metric": "metric"}


@dataclass(frozen=True)
class Plugin:
    """An object from outside under its name; `package` is "" if this process has registered it."""

    kind: str  # one of `NOUNS`
    name: str
    value: Any
    package: str
    version: str


class Plugins:
    """All objects of one kind from outside.

    `ours` are the names that SPIRE has itself. `fault(name, value)` says what was expected in
    place of a wrong object, and is None for a right one.
    """

    def __init__(
        self, kind: str, ours: Collection[str], fault: Callable[[str, Any], str | None]
    ) -> None:
        self.kind, self.ours, self.fault = kind, ours, fault
        self._found: dict[str, Plugin | None] = {}

    def find(self, name: str) -> Plugin | None:
        """Return the object of a name, None if nobody brings one.

        ConfigError if its package cannot be imported, brings something else than it says, or takes
        a name that is taken.
        """
        if name not in self._found and name not in self.ours:
            entries = self._entries(name)
            self._found[name] = self._load(entries) if entries else None
        return self._found.get(name)

    def names(self) -> list[str]:
        """Return the names that packages and this process bring, in order; imports nothing."""
        found = (name for name, plugin in self._found.items() if plugin is not None)
        return sorted({*found, *(entry.name for entry in self._installed())})

    def faults(self) -> list[str]:
        """Return a sentence for each installed object that cannot be used; imports them all."""
        faults = dict[str, None]()  # a set in order: a name of SPIRE's own is the fault of all
        for name in self.names():
            try:
                self._entries(name)
                self.find(name)
            except ConfigError as error:
                faults[str(error)] = None
        return list(faults)

    def register(self, name: str, value: Any, version: str) -> None:
        """Give an object a name in this process, in place of an earlier one that it registered.

        ConfigError if SPIRE itself or a package has the name, or for a wrong object.
        """
        self._check(name, value, "this process")
        self._check_free(name)
        if any(entry.name == name for entry in self._installed()):
            raise self._error(name, "a free name", "the name in a package", "choose another name")
        self._found[name] = Plugin(self.kind, name, value, "", version)

    def _installed(self) -> list[Any]:
        from importlib import metadata  # late: a run without plug-ins does not read them

        return list(metadata.entry_points(group=f"spire.{self.kind}s"))

    def _entries(self, name: str) -> list[Any]:
        """Return the entries of a name; ConfigError if any entry has a name of SPIRE's own."""
        installed = self._installed()
        for entry in installed:
            self._check_free(entry.name, _package(entry))
        return [entry for entry in installed if entry.name == name]

    def _check_free(self, name: str, owner: str = "this process") -> None:
        if name in self.ours:
            advice = "rename it, or uninstall the package that brings it"
            raise self._error(name, "a name that SPIRE itself lacks", f"that of {owner}", advice)

    def _load(self, entries: list[Any]) -> Plugin:
        packages, name = sorted({_package(entry) for entry in entries}), entries[0].name
        if len(packages) > 1:
            got = " and ".join(packages)
            raise self._error(name, "one package", got, "uninstall all but one of them")
        try:
            value = entries[0].load()
        except Exception as error:  # a stranger's code can raise anything
            got = f"{type(error).__name__} in {packages[0]} ({error})"
            advice = "mend or uninstall that package"
            raise self._error(name, "a package that can be imported", got, advice) from error
        self._check(name, value, packages[0])
        dist = entries[0].dist
        return Plugin(self.kind, name, value, dist.name, dist.version)

    def _check(self, name: Any, value: Any, origin: str) -> None:
        got, advice = f"{type(value).__name__} from {origin}", "docs/extending.md has an example"
        if not isinstance(name, str) or NAME.fullmatch(name) is None:
            raise self._error(name, "small letters, digits and _ as a name", got, advice)
        try:
            fault = self.fault(name, value)
        except Exception as error:  # a stranger's object can raise anything
            got = f"{type(error).__name__} in {origin} ({error})"
            raise self._error(name, "an object that can be checked", got, advice) from error
        if fault is not None:
            raise self._error(name, fault, got, advice)

    def _error(self, name: Any, expected: str, got: str, advice: str) -> ConfigError:
        noun = NOUNS[self.kind]
        return ConfigError(f"expected {expected} for the {noun} {name!r}, got {got}: {advice}")


def _package(entry: Any) -> str:
    return f"{entry.dist.name} {entry.dist.version}"
