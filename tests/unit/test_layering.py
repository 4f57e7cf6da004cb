"""Who imports whom, read from the sources: three packages, and homes of Ray, MLflow, the API."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LAYERS = ("spire_core", "pipeline", "sweeps")  # each imports itself and the ones before it
NOT_IN_CORE = {"ray", "mlflow", "omegaconf", "yaml", "matplotlib", "random"}
HOMES = {
    "ray": ("pipeline/cluster/", "sweeps/execution/"),
    "mlflow": ("pipeline/tracking/", "pipeline/inference/mlflow_generator.py"),
    "spire": ("pipeline/cli/", "sweeps/cli.py"),  # the verbs, which are thin over it
}
SOURCES = [
    str(path.relative_to(ROOT)) for layer in LAYERS for path in sorted((ROOT / layer).rglob("*.py"))
]


def imported(source: str) -> Iterator[str]:
    """The packages that a source imports, in functions and for types too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            yield str(node.module).split(".")[0]


def wrong_imports(file: str, source: str) -> set[str]:
    """The packages that a file imports and must not."""
    layer, names = file.split("/")[0], {*imported(source)}
    wrong = names & {*LAYERS[LAYERS.index(layer) + 1 :]}
    wrong |= names & NOT_IN_CORE if layer == "spire_core" else set()
    return wrong | {name for name in names & {*HOMES} if not file.startswith(HOMES[name])}


def test_imports_go_down_and_stay_at_home() -> None:
    found = {file: wrong_imports(file, (ROOT / file).read_text()) for file in SOURCES}
    assert {file: names for file, names in found.items() if names} == {}


def test_a_wrong_import_is_found_where_it_is_hidden() -> None:
    assert wrong_imports("spire_core/a.py", "def f():\n    import pipeline.b") == {"pipeline"}
    assert wrong_imports("pipeline/a.py", "if TYPE_CHECKING:\n    from ray import x") == {"ray"}
    assert wrong_imports("pipeline/cluster/a.py", "import ray\nimport spire_core.b") == set()
