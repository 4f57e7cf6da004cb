"""Who imports whom, read from the sources: layers, cycles, homes of dependencies, global state."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.tracking.mlflow_model import MODEL_NEEDS

ROOT = Path(__file__).parents[2]
LAYERS = ("spire_core", "pipeline", "sweeps")  # each may import itself and those before it
HOMES = {  # the longest matching name counts; a home is a module or a package
    "mlflow": {
        "pipeline.tracking.mlflow_sink",
        "pipeline.tracking.mlflow_model",
        "pipeline.tracking.mlflow_session",
        "pipeline.tracking.mlflow_queries",
        "pipeline.inference.mlflow_generator",
    },
    "omegaconf": {"pipeline.config.load"},
    "pyarrow": {"pipeline.checkpoint.remote"},
    "ray": {
        "pipeline.cluster.session",
        "pipeline.cluster.driver_actor",
        "pipeline.cluster.client_actors",
    },
    "ray._private": {"pipeline.cluster.job_upload"},
    "ray.tune": {"sweeps.execution.tune"},
    "torch_fidelity": {"spire_core.evaluation.kid"},
    "matplotlib": {"pipeline.figures.plots", "pipeline.figures.image_grids"},
}
NOT_IN_CORE = {"ray", "mlflow", "omegaconf", "matplotlib", "random"}
OWN_STREAMS = {"Generator", "RandomState", "default_rng"}  # of numpy.random
MAKES_A_DRIVER = """
import sys
from pipeline.config import load_config
from pipeline.driver import Driver, Rounds
c = load_config("smoke", sys.argv[1:])
Driver(None, None, Rounds(c.federation, c.client, c.server, c.method, 0, [], 0))
print("torch" in sys.modules)
"""
FORKING = {
    "spire_core.network.flat_model",
    "spire_core.training.fit",
}  # may seed torch inside `fork_rng`
SEEDING = {"manual_seed", "seed", "set_rng_state", "manual_seed_all"}
DRAWING = {"bernoulli", "multinomial", "normal", "rand", "randint", "randn", "randperm"}
DRAWING |= {"rand_like", "randint_like", "randn_like"}


class Import(NamedTuple):
    """One imported name in full, such as pipeline.data.datasets.load, and when it is imported."""

    target: str
    is_deferred: bool  # inside a function
    is_type_only: bool  # below `if TYPE_CHECKING`


def read_sources() -> dict[str, str]:
    """Source by module name; a package's own name stands for its `__init__`."""
    files = [file for package in LAYERS for file in sorted((ROOT / package).glob("**/*.py"))]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    texts = [file.read_text() for file in files]
    return {n.removesuffix(".__init__"): t for n, t in zip(names, texts, strict=True)}


def targets(module: str, node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    above = module.split(".")[0] if node.level else None  # the packages are flat
    base = ".".join(filter(None, (above, node.module)))
    return [f"{base}.{alias.name}" for alias in node.names]


def is_type_check(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(module: str, source: str) -> list[Import]:
    def below(node: ast.AST, is_deferred: bool, is_type_only: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for target in targets(module, node):
                yield Import(target, is_deferred, is_type_only)
        is_deferred |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        guarded = node.body if isinstance(node, ast.If) and is_type_check(node.test) else []
        for child in ast.iter_child_nodes(node):
            yield from below(child, is_deferred, is_type_only or child in guarded)

    return list(below(ast.parse(source), False, False))


def upward_imports(sources: Mapping[str, str]) -> list[str]:
    found = []
    for module, source in sources.items():
        allowed = LAYERS[: LAYERS.index(module.split(".")[0]) + 1]
        above = set(LAYERS) - set(allowed)
        found += [f"{module}: {t}" for t, *_ in imports(module, source) if t.split(".")[0] in above]
    return found


def import_graph(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """By module, those of our modules that run as it is loaded."""
    graph: dict[str, set[str]] = {module: set() for module in sources}
    for module, source in sources.items():
        for target, is_deferred, is_type_only in imports(module, source):
            if not is_deferred and not is_type_only:
                parents = (target, target.rpartition(".")[0])  # the name of a module, or in one
                graph[module].update([name for name in parents if name in sources][:1])
    return graph


def reached(graph: Mapping[str, set[str]], *first: str) -> set[str]:
    """These modules and all that they import, directly or not."""
    found, left = set(), list(first)
    while left:
        module = left.pop()
        if module not in found:
            found.add(module)
            left += graph[module]
    return found


def outside(modules: Iterable[str]) -> set[str]:
    """The outside packages that run as these modules are loaded."""
    told = (i for m in modules for i in imports(m, SOURCES[m]))
    names = {i.target.split(".")[0] for i in told if not i.is_deferred and not i.is_type_only}
    return names - set(LAYERS) - sys.stdlib_module_names


def import_cycle(sources: Mapping[str, str]) -> list[str]:
    """The modules of one cycle of imports that run as a module is loaded, or none."""
    try:
        graphlib.TopologicalSorter(import_graph(sources)).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def strays(sources: Mapping[str, str]) -> list[str]:
    """Imports of outside packages away from their homes, and any such in spire_core."""
    found = []
    for module, source in sources.items():
        package = module.split(".")[0]
        for target, _, is_type_only in imports(module, source):
            keys = [key for key in HOMES if f"{target}.".startswith(f"{key}.")]
            is_away = bool(keys) and not HOMES[max(keys, key=len)] & {module, package}
            is_barred = package == "spire_core" and target.split(".")[0] in NOT_IN_CORE
            if is_barred or (is_away and not is_type_only):
                found.append(f"{module}: {target}")
    return found


def global_state_uses(module: str, source: str) -> list[str]:
    """Calls of print, and of what seeds or draws from numpy's or torch's global generator."""
    tree, names, found = ast.parse(source), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias, target in zip(node.names, targets(module, node), strict=True):
                names[alias.asname or alias.name] = target

    def visit(node: ast.AST, is_forked: bool) -> None:
        if isinstance(node, ast.With) and module in FORKING:
            is_forked |= any("fork_rng(" in ast.unparse(item) for item in node.items)
        if isinstance(node, ast.Call):
            root, *rest = ast.unparse(node.func).split(".")
            call = ".".join([names.get(root, root), *rest])
            has_generator = any(keyword.arg == "generator" for keyword in node.keywords)
            if is_global(call, has_generator, is_forked):
                found.append(f"{module}:{node.lineno}: {call}")
        for child in ast.iter_child_nodes(node):
            visit(child, is_forked)

    visit(tree, False)
    return found


def is_global(call: str, has_generator: bool, is_forked: bool) -> bool:
    origin, _, name = call.rpartition(".")
    if origin == "numpy.random":
        return name not in OWN_STREAMS
    is_seeding = origin in ("torch", "torch.random", "torch.cuda") and name in SEEDING
    is_drawing = origin == "torch" and name in DRAWING and not has_generator
    return call == "print" or ((is_seeding or is_drawing) and not is_forked)


SOURCES = read_sources()


def test_the_sources_are_there() -> None:
    assert {"spire_core", "pipeline", "sweeps", "pipeline.experiment.run", "spire_core.rng"} <= {
        *SOURCES
    }
    assert "spire_core.errors.ConfigError" in [
        i.target for i in imports("pipeline.config.load", SOURCES["pipeline.config.load"])
    ]


def test_imports_go_down_only() -> None:
    assert upward_imports(SOURCES) == []


def test_modules_import_each_other_in_no_circle() -> None:
    assert import_cycle(SOURCES) == []


def test_an_outside_package_has_one_home() -> None:
    assert strays(SOURCES) == []


def test_what_starts_in_every_actor_imports_no_more_than_it_needs() -> None:
    """Seconds of every process: neither MLflow nor OmegaConf, nor what Inception comes with."""
    actors = reached(
        import_graph(SOURCES), "pipeline.cluster.client_actors", "pipeline.clients.worker"
    )
    assert "pipeline.federation.driver" not in actors
    assert not actors & {
        "pipeline.config.load",
        "pipeline.tracking.tracker",
        "pipeline.figures.plots",
    }
    assert "omegaconf" in outside(["pipeline.config.load"])
    assert "omegaconf" not in outside(actors)


@pytest.mark.parametrize(
    "module", ["pipeline.config.load", "pipeline.data.fetch", "sweeps.design.config"]
)
def test_what_is_typed_is_read_and_checked_without_torch(module: str) -> None:
    """A mistake is told at once, and Ray can start while torch is imported."""
    needed = reached(import_graph(SOURCES), module, *(f"{m}.cli" for m in LAYERS[1:]))
    assert "pipeline.cli.command" in needed
    assert not outside(needed) & {"torch", "torchvision", "ray", "mlflow", "matplotlib"}


def test_the_driver_starts_without_torch() -> None:
    """Its process would import it beside those of the clients, which wait for their cores."""
    driver = reached(
        import_graph(SOURCES), "pipeline.cluster.driver_actor", "pipeline.cluster.client_actors"
    )
    assert {"pipeline.federation.driver", "spire_core.federated.server"} <= driver
    assert "torch" in outside(reached(import_graph(SOURCES), "pipeline.clients.worker"))
    assert "torch" not in outside(driver)


@pytest.mark.parametrize(("compression", "has_torch"), [("none", False), ("int8", True)])
def test_torch_is_there_before_the_first_round_where_updates_need_it(
    compression: str, has_torch: bool
) -> None:
    command = [sys.executable, "-c", MAKES_A_DRIVER, f"client.compression={compression}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{has_torch}\n"


def test_a_logged_model_asks_for_what_it_imports() -> None:
    own = outside(
        reached(
            import_graph(SOURCES),
            "pipeline.inference.mlflow_generator",
            "pipeline.inference.saved_run",
        )
    )
    with_mlflow = {"pandas"}
    assert {"pillow" if name == "PIL" else name for name in own - with_mlflow} == set(MODEL_NEEDS)


@pytest.mark.parametrize("module", [m for m in SOURCES if m.split(".")[0] == "spire_core"])
def test_the_core_neither_prints_nor_draws_from_global_generators(module: str) -> None:
    assert global_state_uses(module, SOURCES[module]) == []


# The same checks on samples that break the rules.


def test_an_upward_import_is_found_even_where_it_is_hidden() -> None:
    hidden = "def f():\n    import pipeline.data.fetch as f"
    typing = "if TYPE_CHECKING:\n    from sweeps import search"
    sources = {"spire_core.a": hidden, "pipeline.b": typing, "sweeps.c": "import spire_core.a"}
    assert upward_imports(sources) == [
        "spire_core.a: pipeline.data.fetch",
        "pipeline.b: sweeps.search",
    ]


@pytest.mark.parametrize(
    ("back", "is_cycle"),
    [
        ("from pipeline.a import f", True),
        ("from . import a", True),
        ("try:\n    import pipeline.a\nexcept ImportError: ...", True),
        ("if TYPE_CHECKING: ...\nelse:\n    from pipeline import a", True),
        ("if TYPE_CHECKING:\n    from pipeline import a", False),
        ("def f():\n    from pipeline import a", False),
    ],
)
def test_a_cycle_is_found_unless_it_is_deferred(back: str, is_cycle: bool) -> None:
    sources = {
        "pipeline.a": "import pipeline.b",
        "pipeline.b": "from .c import x",
        "pipeline.c": back,
    }
    assert set(import_cycle(sources)) == (set(sources) if is_cycle else set())


def test_strays_are_found() -> None:
    typing = "if TYPE_CHECKING:\n    from matplotlib.figure import Figure"
    sources = {
        "pipeline.cluster.client_actors": "import ray.util\nfrom ray import tune",
        "pipeline.federation.driver": f"def f():\n from ray import get\n{typing}\nimport rayon",
        "sweeps.execution.tune": "from ray.tune import Tuner\nimport ray",
        "sweeps.search": "from ray import tune",
        "spire_core.evaluation.kid": f"import torch_fidelity\n{typing}",
    }
    assert strays(sources) == [
        "pipeline.cluster.client_actors: ray.tune",
        "pipeline.federation.driver: ray.get",
        "sweeps.execution.tune: ray",
        "sweeps.search: ray.tune",
        "spire_core.evaluation.kid: matplotlib.figure.Figure",
    ]


SAMPLE = """
import numpy as np
import torch
from torch import randn as draw
np.random.default_rng(0).normal()
np.random.normal()
torch.rand(3, generator=torch.Generator().manual_seed(0))
draw(3)
with torch.random.fork_rng():
    torch.manual_seed(0)
    print(1)
torch.manual_seed(0)
"""


@pytest.mark.parametrize(
    ("module", "lines"),
    [
        ("spire_core.network.flat_model", [6, 8, 11, 12]),
        ("spire_core.federated.client", [6, 8, 10, 11, 12]),
    ],
)
def test_global_state_is_found(module: str, lines: list[int]) -> None:
    assert [int(use.split(":")[1]) for use in global_state_uses(module, SAMPLE)] == lines
