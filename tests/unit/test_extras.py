"""A message about a package that is missing names it with the bounds of pyproject.toml.

SPIRE itself is on no index, from which pip could install its extras.
"""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
FILES = {
    "search": "sweeps/execution/search.py",
    "privacy": "spire_core/privacy/accounting.py",
    "diffusers": "spire_core/pretrained/folder.py",
    "text": "spire_core/pretrained/sentences.py",
}


@pytest.mark.parametrize("extra", FILES)
def test_a_missing_package_is_named_with_its_bounds(extra: str) -> None:
    [requirement] = EXTRAS[extra]
    assert f"pip install '{requirement}'" in (ROOT / FILES[extra]).read_text()
