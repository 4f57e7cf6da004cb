"""Names that packages bring: what is imported and when."""

import sys
from pathlib import Path

import pytest

from spire_core.config.method import OTHER_METHODS, MethodConfig
from spire_core.errors import ConfigError
from spire_core.methods import BODY

GOOD = "from spire_core.methods import Method\nM = Method({name!r}, ('body',), 1e-3, 1e-3)\n"


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OTHER_METHODS, "_found", {})


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages; module names are their own, since Python keeps modules."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def install(site: Path, package: str, module: str, text: str, entry: str) -> None:
    (site / f"{module}.py").write_text(text)
    info = site / f"{package}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(f"[spire.methods]\n{entry}")


def test_only_the_package_that_is_asked_for_is_imported(site: Path) -> None:
    install(site, "asked", "asked_for", GOOD.format(name="near"), "near = asked_for:M")
    install(site, "beside", "left_alone", "raise SystemError", "far = left_alone:M")
    assert MethodConfig("fedavg").record.adapt_parts == ()
    assert "asked_for" not in sys.modules
    assert MethodConfig("near").record.adapt_parts == (BODY,)
    found = OTHER_METHODS.find("near")
    assert found is not None
    assert (found.package, found.version) == ("asked", "1.2")
    assert "left_alone" not in sys.modules
    assert OTHER_METHODS.names() == ["far", "near"]
    with pytest.raises(ConfigError, match="far of the package beside, got SystemError"):
        MethodConfig("far")
