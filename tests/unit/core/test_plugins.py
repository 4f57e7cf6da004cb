"""Names that packages bring: what is imported and when, and what is refused in one sentence."""

import sys
from pathlib import Path
from typing import Any

import pytest

from spire_core.config.method import OTHER_METHODS, MethodConfig
from spire_core.errors import ConfigError
from spire_core.methods import BODY, CLIENT_EMB, LOCAL, Method
from spire_core.plugins import Plugins

GOOD = "from spire_core.methods import Method\nM = Method({name!r}, ('body',), 1e-3, 1e-3)\n"


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OTHER_METHODS, "_found", {})


class Site:
    """A folder of installed packages; module names are their own, since Python keeps modules."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def install(self, package: str, module: str, text: str, *entries: str) -> None:
        (self.folder / f"{module}.py").write_text(text)
        info = self.folder / f"{package}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text("\n".join(["[spire.methods]", *entries]))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.syspath_prepend(str(tmp_path))
    return Site(tmp_path)


def test_only_the_package_that_is_asked_for_is_imported(site: Site) -> None:
    site.install("asked", "asked_for", GOOD.format(name="near"), "near = asked_for:M")
    site.install("beside", "left_alone", "raise SystemError", "far = left_alone:M")
    assert MethodConfig("fedavg").record.adapt_parts == ()
    assert "asked_for" not in sys.modules
    assert MethodConfig("near").record.adapt_parts == (BODY,)
    found = OTHER_METHODS.find("near")
    assert found is not None
    assert (found.package, found.version) == ("asked", "1.2")
    assert "left_alone" not in sys.modules
    assert OTHER_METHODS.names() == ["far", "near"]
    [fault] = OTHER_METHODS.faults()
    assert "'far', got SystemError in beside 1.2" in fault


@pytest.mark.parametrize(
    ("module", "text", "entries", "sentence"),
    [
        ("no_import", "import nowhere_at_all", ["x = no_import:M"], "No module named 'nowhere_at"),
        ("no_name", "", ["x = no_name:M"], "got AttributeError in one 1.2"),
        ("no_method", "M = 3", ["x = no_method:M"], "Method with name='x' .*, got int from one"),
        ("other_name", GOOD.format(name="y"), ["x = other_name:M"], "Method with name='x'"),
        ("ours", GOOD.format(name="x"), ["x = ours:M", "spire = ours:M"], "SPIRE itself lacks"),
    ],
)
def test_a_bad_package_is_one_sentence(
    site: Site, module: str, text: str, entries: list[str], sentence: str
) -> None:
    site.install("one", module, text, *entries)
    with pytest.raises(ConfigError, match=sentence):
        MethodConfig("x")


def test_the_package_that_takes_a_name_of_our_own_is_named(site: Site) -> None:
    site.install("one", "own_name", GOOD.format(name="x"), "x = own_name:M", "spire = own_name:M")
    [fault] = OTHER_METHODS.faults()
    assert "'spire', got that of one 1.2: rename it, or uninstall the package" in fault


def test_a_name_of_two_packages_is_refused(site: Site) -> None:
    site.install("one", "first", GOOD.format(name="x"), "x = first:M")
    site.install("two", "second", GOOD.format(name="x"), "x = second:M")
    with pytest.raises(ConfigError, match=r"expected one package .* got one 1.2 and two 1.2"):
        MethodConfig("x")


def test_an_unknown_name_is_told_what_there_is(site: Site) -> None:
    site.install("one", "there_is", GOOD.format(name="nearer"), "nearer = there_is:M")
    with pytest.raises(ConfigError, match=r"or nearer, got 'neare': did you mean nearer\?"):
        MethodConfig("neare")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"adapt_parts": (CLIENT_EMB,)},
            r"expected has_embedding=True with adapt_parts=\('client_emb',\) for the method 'x'",
        ),
        ({"adapt_parts": (BODY, LOCAL)}, "has_local_layers=True or an adapter with adapt_parts="),
        ({"adapt_parts": (BODY, "head")}, r"adapt_parts=\('body',\)"),
        ({"adapt_parts": None}, "adapt_parts as a tuple of texts"),
        ({"adapt_parts": "body"}, "adapt_parts as a tuple of texts"),
        ({"adapt_lr": "a"}, "adapt_lr as a number"),
        ({"private_lr": None}, "private_lr as a number"),
        ({"is_federated": "no"}, "is_federated as True or False"),
        ({"adapter": None}, "adapter as a text"),
        ({"has_embedding": True}, r"adapt_parts=\('client_emb',\), which its clients own"),
        ({"adapter": "lora"}, r"adapt_parts=\('local',\)"),
        ({"adapter": "ia3", "adapt_parts": (LOCAL,)}, "adapter out of"),
        ({"adapt_lr": 0.0}, "adapt_lr and private_lr above 0"),
        ({"penalty": 3}, "penalty as a function"),
        ({"penalty": max, "is_federated": False}, "of a method with rounds"),
    ],
)
def test_a_method_that_cannot_run_is_refused(changes: dict[str, Any], sentence: str) -> None:
    fields = {"name": "x", "adapt_parts": (BODY,), "adapt_lr": 1e-3, "private_lr": 1e-3}
    with pytest.raises(ConfigError, match=sentence):
        OTHER_METHODS.register("x", Method(**(fields | changes)), "1")


def test_a_check_that_fails_is_one_sentence(site: Site) -> None:
    site.install("one", "odd_value", "M = 3", "x = odd_value:M")
    plugins = Plugins("method", (), lambda name, value: value.words)
    with pytest.raises(ConfigError, match=r"can be checked .* got AttributeError in one 1.2"):
        plugins.find("x")
    [fault] = plugins.faults()
    assert "AttributeError" in fault


@pytest.mark.parametrize("name", [None, 3, ["x"]])
def test_a_name_that_is_no_text_is_one_sentence(name: Any) -> None:
    with pytest.raises(ConfigError, match="expected small letters, digits and _ as a name"):
        Plugins("metric", {"kid": 1}, lambda name, value: None).register(name, max, "1")


def test_a_registered_name_is_replaced_by_this_process_alone(site: Site) -> None:
    site.install("one", "taken", GOOD.format(name="taken"), "taken = taken:M")
    plugins = Plugins("method", ("spire",), lambda name, value: None)
    plugins.register("own", 1, "1")
    plugins.register("own", 2, "2")
    found = plugins.find("own")
    assert found is not None
    assert (found.value, found.version, found.package) == (2, "2", "")
    for name, sentence in (("spire", "SPIRE itself"), ("taken", "a package"), ("A b", "letters")):
        with pytest.raises(ConfigError, match=sentence):
            plugins.register(name, 1, "1")
