"""Who imports whom, read from the sources: layers, cycles, homes of dependencies, global state."""

import ast
import functools
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.tracking.mlflow_model import MODEL_NEEDS

ROOT = Path(__file__).parents[2]
LAYERS = ("spire_core", "pipeline", "sweeps", "spire")  # each may import itself and those before it
ROOMS = {  # by package, the floors from the top: a room imports what lies on lower floors alone
    "sweeps": [
        ("sweeps.__main__",),
        ("sweeps.cli",),
        ("sweeps.outcome_text",),
        ("sweeps.sweep",),
        ("sweeps.execution",),
        ("sweeps.report",),
        ("sweeps.design",),
        ("sweeps.primary",),
    ],
    "pipeline": [
        ("pipeline.__main__",),
        ("pipeline.cli",),
        ("pipeline.experiment", "pipeline.audit"),
        ("pipeline.results", "pipeline.cluster", "pipeline.inference", "pipeline.checkpoint"),
        ("pipeline.evaluation", "pipeline.theory", "pipeline.clients"),
        ("pipeline.federation", "pipeline.tracking"),
        ("pipeline.data", "pipeline.runs"),
        ("pipeline.config",),
        ("pipeline.files", "pipeline.figures"),
    ],
    "spire_core": [
        ("spire_core.adaptation",),
        ("spire_core.federated",),
        ("spire_core.training",),
        (
            "spire_core.diffusion",
            "spire_core.network",
            "spire_core.partition",
            "spire_core.privacy",
            "spire_core.secure_sum",
        ),
        (
            "spire_core.config",
            "spire_core.evaluation",
            "spire_core.mixture",
            "spire_core.pretrained",
        ),
        ("spire_core.methods", "spire_core.plugins"),
        ("spire_core.errors", "spire_core.rng"),
    ],
}
FLOORS = {
    room: floor for floors in ROOMS.values() for floor, rooms in enumerate(floors) for room in rooms
}
BARRED = {  # by room, the rooms that it must not reach, also over others, whatever their floor
    "pipeline.federation": ("pipeline.clients", "pipeline.checkpoint", "pipeline.runs"),
}
BARRED["pipeline.federation"] += ("pipeline.tracking",)
ONLY_FOR = {"pipeline.theory": {"pipeline.cli"}}  # rooms that these alone import
HOMES = {  # the longest matching name counts; a home is a module or a package
    "argcomplete": {"pipeline.cli.completion"},
    "mlflow": {"pipeline.tracking", "pipeline.inference.mlflow_generator"},
    "pyarrow": {"pipeline.checkpoint.storage"},
    "ray": {"pipeline.cluster"},
    "ray.tune": {"sweeps.execution.tune", "sweeps.execution.tune_search"},
    "torch_fidelity": {"spire_core.evaluation.precision_recall", "spire_core.evaluation.inception"},
    "matplotlib": {"pipeline.figures"},
    "jinja2": {"sweeps.report.pages"},
    "scipy": {"spire_core.partition.coverage"},
    "scipy.optimize": {"spire_core.partition.coverage", "sweeps.report.regression"},
    "scipy.special": {"sweeps.report.stats"},
    "diffusers": {"spire_core.pretrained"},
    "wordllama": {"spire_core.pretrained.sentences"},
    "tokenizers": {"spire_core.pretrained.sentences"},
    "dp_accounting": {"spire_core.privacy.sampled"},
    "cryptography": {"spire_core.secure_sum.keys"},
}
NOT_IN_CORE = {"ray", "mlflow", "yaml", "matplotlib", "random"}
NOT_IN_CONFIG = {"torch", "torchvision", "PIL"}
FILE_WORK = {"open", "read_text", "read_bytes", "write_text", "write_bytes", "unlink", "mkdir"}
OWN_STREAMS = {"Generator", "RandomState", "default_rng"}  # of numpy.random
MAKES_A_DRIVER = """
import sys
from pipeline.config.load import load_config
from pipeline.federation.driver import Driver
from pipeline.federation.rounds import RoundSettings
c = load_config("smoke", sys.argv[1:])
Driver(None, None, RoundSettings(c.federation, c.client, c.server, c.method, 0, [], 0))
print("torch" in sys.modules)
"""
FORKING = {  # may seed torch inside `fork_rng`
    "spire_core.network.flat_model",
    "spire_core.training.fit",
}
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
    files.append(ROOT / "spire.py")
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]
    texts = [file.read_text() for file in files]
    return {n.removesuffix(".__init__"): t for n, t in zip(names, texts, strict=True)}


def targets(module: str, node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    above = module.rsplit(".", node.level)[0] if node.level else None
    base = ".".join(filter(None, (above, node.module)))
    return [f"{base}.{alias.name}" for alias in node.names]


def is_type_check(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


@functools.cache  # tests ask for the same modules again
def imports(module: str, source: str) -> tuple[Import, ...]:
    def below(node: ast.AST, is_deferred: bool, is_type_only: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for target in targets(module, node):
                yield Import(target, is_deferred, is_type_only)
        is_deferred |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        guarded = node.body if isinstance(node, ast.If) and is_type_check(node.test) else []
        for child in ast.iter_child_nodes(node):
            yield from below(child, is_deferred, is_type_only or child in guarded)

    return tuple(below(ast.parse(source), False, False))


def upward_imports(sources: Mapping[str, str]) -> list[str]:
    found = []
    for module, source in sources.items():
        allowed = LAYERS[: LAYERS.index(module.split(".")[0]) + 1]
        above = set(LAYERS) - set(allowed)
        found += [f"{module}: {t}" for t, *_ in imports(module, source) if t.split(".")[0] in above]
    return found


def import_graph(sources: Mapping[str, str], are_all: bool = False) -> dict[str, set[str]]:
    """By module, those of our modules that run as it is loaded, or all that it names."""
    graph: dict[str, set[str]] = {module: set() for module in sources}
    for module, source in sources.items():
        for target, is_deferred, is_type_only in imports(module, source):
            if are_all or not (is_deferred or is_type_only):
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
    """The modules of one circle of imports, also of types and inside functions, or none."""
    try:
        graphlib.TopologicalSorter(import_graph(sources, are_all=True)).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return []


def room_of(module: str) -> str:
    """The package of packages that a module lies in, or the module itself above them."""
    return ".".join(module.split(".")[:2])


def wrong_ways(sources: Mapping[str, str]) -> list[str]:
    """Imports, of any kind, that do not lead to a lower floor or do not keep out of a room."""
    graph, found = import_graph(sources, are_all=True), []
    for module in sorted(sources):
        room = room_of(module)
        for target in sorted(graph[module]):
            other = room_of(target)
            if other == room or other.count(".") == 0 or room.count(".") == 0:
                continue
            is_same_layer = room.split(".")[0] == other.split(".")[0]
            is_up = is_same_layer and FLOORS[other] <= FLOORS[room]
            is_strange = room not in ONLY_FOR.get(other, {room})
            if is_up or is_strange:
                found.append(f"{module}: {target}")
    return found


def barred_ways(sources: Mapping[str, str]) -> list[str]:
    """Modules that a room reaches, directly or over others, though it must not."""
    graph, found = import_graph(sources, are_all=True), []
    for room, barred in BARRED.items():
        own = [module for module in sources if room_of(module) == room]
        for target in sorted(reached(graph, *own)):
            if room_of(target) in barred:
                found.append(f"{room}: {target}")
    return found


def strays(sources: Mapping[str, str]) -> list[str]:
    """Imports of outside packages away from their homes, and any such in spire_core or config."""
    found = []
    for module, source in sources.items():
        homes = {".".join(module.split(".")[:n]) for n in (1, 2, 3)}
        package = module.split(".")[0]
        for target, _, is_type_only in imports(module, source):
            keys = [key for key in HOMES if f"{target}.".startswith(f"{key}.")]
            is_away = bool(keys) and not HOMES[max(keys, key=len)] & homes
            outside = target.split(".")[0]
            is_barred = package == "spire_core" and outside in NOT_IN_CORE
            is_barred |= room_of(module).endswith(".config") and outside in NOT_IN_CONFIG
            if is_barred or (is_away and not is_type_only):
                found.append(f"{module}: {target}")
    return found


def file_work(module: str, source: str) -> list[str]:
    """Calls that read or write a file, or import what does."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = [(node.lineno, ast.unparse(node.func).rpartition(".")[2]) for node in calls]
    found = [f"{module}:{line}: {name}" for line, name in names if name in FILE_WORK]
    return found + [f"{module}: {t}" for t, *_ in imports(module, source) if ".files." in t]


def more_than_a_docstring(source: str) -> bool:
    """Whether the text of an `__init__` does anything."""
    body = ast.parse(source).body
    return not (len(body) == 1 and isinstance(body[0], ast.Expr))


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
    rooms = {room_of(module) for module in SOURCES} - set(LAYERS)
    assert rooms == {*FLOORS}
    assert "spire_core.errors.ConfigError" in [
        i.target for i in imports("pipeline.config.load", SOURCES["pipeline.config.load"])
    ]


def test_imports_go_down_only() -> None:
    assert upward_imports(SOURCES) == []
    assert wrong_ways(SOURCES) == []


def test_modules_import_each_other_in_no_circle() -> None:
    assert import_cycle(SOURCES) == []


def test_the_server_cannot_reach_a_file_of_a_client() -> None:
    assert barred_ways(SOURCES) == []


def test_an_outside_package_has_one_home() -> None:
    assert strays(SOURCES) == []


def test_scores_are_worked_out_without_any_file() -> None:
    rooms = [module for module in SOURCES if room_of(module) == "pipeline.evaluation"]
    assert len(rooms) > 3
    assert [use for module in rooms for use in file_work(module, SOURCES[module])] == []


def test_a_package_does_nothing_as_it_is_imported() -> None:
    packages = [file.parent for layer in LAYERS for file in (ROOT / layer).rglob("__init__.py")]
    names = [".".join(folder.relative_to(ROOT).parts) for folder in packages]
    assert len(names) > 25
    assert [name for name in names if more_than_a_docstring(SOURCES[name])] == []


def test_the_page_shows_each_room_on_its_floor() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `([\w/]+?)(?:/|\.py)` \|", page, re.MULTILINE)
    shown = {room.replace("/", "."): int(floor) for floor, room in rows}
    assert len(shown) == len(rows)
    assert shown == {
        room: floor
        for floors in ROOMS.values()
        for floor, rooms in enumerate(reversed(floors), 1)
        for room in rooms
    }


def test_what_starts_in_every_actor_imports_no_more_than_it_needs() -> None:
    """Seconds of every process: neither MLflow nor YAML, nor what Inception comes with."""
    actors = reached(
        import_graph(SOURCES), "pipeline.cluster.actor_pool", "pipeline.clients.worker"
    )
    assert "pipeline.federation.driver" not in actors
    assert not actors & {
        "pipeline.config.load",
        "pipeline.tracking.tracker",
        "pipeline.figures.plots",
    }
    assert "yaml" in outside(["pipeline.config.safe_yaml"])
    assert "yaml" not in outside(actors)


@pytest.mark.parametrize(
    "module", ["pipeline.config.load", "pipeline.data.fetch", "sweeps.design.load"]
)
def test_what_is_typed_is_read_and_checked_without_torch(module: str) -> None:
    """A mistake is told at once, and Ray can start while torch is imported."""
    needed = reached(import_graph(SOURCES), module, "pipeline.cli", "sweeps.cli")
    assert "pipeline.cli.command" in needed
    assert not outside(needed) & {"torch", "torchvision", "ray", "mlflow", "matplotlib"}


def test_the_driver_starts_without_torch() -> None:
    """Its process would import it beside those of the clients, which wait for their cores."""
    driver = reached(
        import_graph(SOURCES), "pipeline.cluster.driver_actor", "pipeline.cluster.actor_pool"
    )
    assert {"pipeline.federation.driver", "spire_core.federated.server"} <= driver
    assert "torch" in outside(reached(import_graph(SOURCES), "pipeline.clients.worker"))
    assert "torch" not in outside(driver)


@pytest.mark.parametrize("compression", ["none", "int8"])
def test_the_driver_needs_no_torch_whatever_clients_send(compression: str) -> None:
    command = [sys.executable, "-c", MAKES_A_DRIVER, f"client.compression={compression}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_logged_model_asks_for_what_it_imports() -> None:
    own = outside(
        reached(
            import_graph(SOURCES),
            "pipeline.inference.mlflow_generator",
            "pipeline.inference.saved_run",
        )
    )
    with_mlflow = {"pandas"}
    assert own - with_mlflow == set(MODEL_NEEDS)


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
    "back",
    [
        "from pipeline.config.a import f",
        "from . import a",
        "try:\n    import pipeline.config.a\nexcept ImportError: ...",
        "if TYPE_CHECKING: ...\nelse:\n    from pipeline.config import a",
        "if TYPE_CHECKING:\n    from pipeline.config import a",
        "def f():\n    from ..config import a",
    ],
)
def test_a_circle_is_found_also_where_it_is_hidden(back: str) -> None:
    sources = {
        "pipeline.config.a": "import pipeline.config.b",
        "pipeline.config.b": "from .c import x",
        "pipeline.config.c": back,
    }
    assert set(import_cycle(sources)) == set(sources)
    assert import_cycle(sources | {"pipeline.config.c": "import pipeline.config.d"}) == []


@pytest.mark.parametrize(
    ("module", "source", "is_found"),
    [
        ("pipeline.config.a", "from pipeline.runs.b import c", True),  # up
        ("pipeline.data.a", "def f():\n    from pipeline.runs import b", True),  # the same floor
        ("pipeline.runs.a", "from pipeline.config.b import c", False),
        ("pipeline.experiment.a", "import pipeline.theory.b", True),  # which is for the CLI alone
        ("pipeline.cli.a", "import pipeline.theory.b", False),
        ("spire_core.network.a", "from spire_core.federated.b import c", True),
        ("sweeps.report.a", "from sweeps.design.b import c", False),
        ("sweeps.design.a", "from sweeps.report.b import c", True),
        ("sweeps.sweep", "from sweeps.design.b import c", False),
    ],
)
def test_a_way_up_is_found(module: str, source: str, is_found: bool) -> None:
    rooms = ("pipeline.runs", "pipeline.config", "pipeline.theory")
    rooms += ("spire_core.federated", "sweeps.design", "sweeps.report")
    sources = {f"{room}.b": "" for room in rooms} | {module: source}
    assert bool(wrong_ways(sources)) == is_found


@pytest.mark.parametrize("over", ["pipeline.clients.store", "pipeline.config.a"])
def test_a_way_from_the_server_to_a_client_is_found_also_over_others(over: str) -> None:
    sources = {
        "pipeline.federation.driver": f"def f():\n    import {over}",
        "pipeline.config.a": "import pipeline.clients.store",
        "pipeline.clients.store": "",
    }
    assert barred_ways(sources) == ["pipeline.federation: pipeline.clients.store"]


def test_work_on_files_is_found() -> None:
    source = "import json\ndef f(p):\n    return json.loads(p.read_text())"
    assert file_work("pipeline.evaluation.a", source) == ["pipeline.evaluation.a:3: read_text"]
    assert file_work("pipeline.evaluation.a", "from pipeline.files.atomic import sync") != []


def test_a_package_that_does_something_is_found() -> None:
    assert not more_than_a_docstring('"""A room."""')
    assert more_than_a_docstring('"""A room."""\nfrom pipeline.config.load import load_config')


def test_strays_are_found() -> None:
    typing = "if TYPE_CHECKING:\n    from matplotlib.figure import Figure"
    sources = {
        "pipeline.cluster.actor_pool": "import ray.util\nfrom ray import tune",
        "pipeline.federation.driver": f"def f():\n from ray import get\n{typing}\nimport rayon",
        "sweeps.execution.tune": "from ray.tune import Tuner\nimport ray",
        "sweeps.search": "from ray import tune",
        "spire_core.evaluation.inception": f"import torch_fidelity\n{typing}",
        "spire_core.config.client": "def f():\n    import torch",
        "pipeline.config.data": "from PIL import Image",
        "pipeline.results.files": "import mlflow",
    }
    assert strays(sources) == [
        "pipeline.cluster.actor_pool: ray.tune",
        "pipeline.federation.driver: ray.get",
        "sweeps.execution.tune: ray",
        "sweeps.search: ray.tune",
        "spire_core.evaluation.inception: matplotlib.figure.Figure",
        "spire_core.config.client: torch",
        "pipeline.config.data: PIL.Image",
        "pipeline.results.files: mlflow",
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
