"""The faults of benchmarks/mutations.py still fit the sources and the tests."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def mutations() -> ModuleType:
    path = ROOT / "benchmarks" / "mutations.py"
    spec = importlib.util.spec_from_file_location("mutations", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["mutations"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_fault_changes_one_place_and_names_tests(mutations: ModuleType) -> None:
    assert len(mutations.MUTATIONS) >= 20
    assert len({m.name for m in mutations.MUTATIONS}) == len(mutations.MUTATIONS)
    for mutation in mutations.MUTATIONS:
        text = (ROOT / mutation.file).read_text()
        assert mutations.mutated(mutation, text) != text, mutation.name
        compile(mutations.mutated(mutation, text), mutation.file, "exec")
        for file, _, name in (test.partition("::") for test in mutation.tests):
            assert (ROOT / file).exists(), file
            assert not name or f"def {name}(" in (ROOT / file).read_text(), name


@pytest.mark.parametrize("text", ["", "b", "aa"])
def test_a_fault_that_does_not_fit_is_an_error(mutations: ModuleType, text: str) -> None:
    stale = mutations.Mutation("stale", "file.py", "a", "b", ())
    with pytest.raises(ValueError, match=r"expected the text of 'stale' once in file\.py, got it"):
        mutations.mutated(stale, text)
