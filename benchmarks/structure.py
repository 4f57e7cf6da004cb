"""Figures of the code's structure, read from the sources: nothing of the project is imported.

    python benchmarks/structure.py
    python benchmarks/structure.py CHECKOUT --json > benchmarks/results/structure-before.json

Imports are counted on three levels. On the first, a node is a file; on the second, a package, which
is a folder; on the third, a room, which is a folder below spire_core, pipeline or sweeps, or a file
directly in one of these. An arrow joins two nodes of which one imports from the other, in functions
too; what is imported below `if TYPE_CHECKING` only is counted beside it. "At load" leaves out what
only functions import. Floors are the nodes of the longest chain, where the nodes of a circle count
as one. A circle is a set of nodes of which each reaches each other. The column "all" has the three
packages together.

A function's arguments are those with a name, without `self` or `cls`; its lines are those from
`def` to its end, with its docstring. Percentiles are nearest ranks.
"""

import argparse
import ast
import json
import math
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOAD, FUNCTION, TYPES = "load", "function", "types"  # when an import is done
TOPS = ("spire_core", "pipeline", "sweeps")
LEVEL_COUNTS = ("nodes", "arrows", "type_only_arrows", "arrows_at_load", "floors", "floors_at_load")
MAX_ARGUMENTS, MAX_FUNCTION_LINES, MAX_FILE_LINES = 7, 50, 250
Graph = Mapping[str, set[str]]


@dataclass(frozen=True)
class Module:
    """One file: its dotted name, whether it is an `__init__`, its lines and its syntax tree."""

    name: str
    path: str
    is_init: bool
    num_lines: int
    tree: ast.Module

    @property
    def package(self) -> str:
        return self.name if self.is_init else self.name.rpartition(".")[0]

    @property
    def room(self) -> str:
        return self.name if self.package in TOPS else self.package


@dataclass(frozen=True)
class Function:
    """A function or method, and what is counted of it."""

    where: str
    num_arguments: int
    num_lines: int


# --- sources ------------------------------------------------------------------------------------


def read_modules(root: Path) -> dict[str, Module]:
    """Return the modules of the three packages below a folder, by name."""
    modules = {}
    for path in sorted(p for top in TOPS for p in (root / top).rglob("*.py")):
        parts, text = path.relative_to(root).with_suffix("").parts, path.read_text()
        is_init = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_init else parts)
        relative = path.relative_to(root).as_posix()
        modules[name] = Module(name, relative, is_init, text.count("\n"), ast.parse(text))
    return modules


def imported_names(module: Module, node: ast.Import | ast.ImportFrom) -> list[str]:
    """Return what a statement imports, in full, such as pipeline.datasets.load."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        parts = module.package.split(".")
        above = parts[: len(parts) - node.level + 1]
        base = ".".join([*above, *filter(None, [node.module])])
    return [f"{base}.{alias.name}" for alias in node.names]


def is_type_check(node: ast.AST) -> bool:
    checks = ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    return isinstance(node, ast.If) and ast.unparse(node.test) in checks


def imports(module: Module) -> Iterator[tuple[str, str]]:
    """Yield each imported name, and when it is imported."""

    def below(node: ast.AST, when: str) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            for name in imported_names(module, node):
                yield name, when
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and when == LOAD:
            when = FUNCTION
        guarded = node.body if isinstance(node, ast.If) and is_type_check(node) else []
        for child in ast.iter_child_nodes(node):
            yield from below(child, TYPES if child in guarded else when)

    return below(module.tree, LOAD)


def functions(module: Module) -> Iterator[Function]:
    """Yield all functions of a file, those inside others too."""

    def below(node: ast.AST, outer: str, in_class: bool) -> Iterator[Function]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                name, taken = f"{outer}{child.name}", child.args
                is_static = any(ast.unparse(d) == "staticmethod" for d in child.decorator_list)
                count = len(taken.posonlyargs + taken.args + taken.kwonlyargs)
                num_lines = (child.end_lineno or child.lineno) - child.lineno + 1
                count -= in_class and not is_static
                yield Function(f"{module.path}:{name}", count, num_lines)
                yield from below(child, f"{name}.", False)
            else:
                is_class = isinstance(child, ast.ClassDef)
                name = f"{outer}{child.name}." if isinstance(child, ast.ClassDef) else outer
                yield from below(child, name, is_class or in_class)

    return below(module.tree, "", False)


# --- graphs -------------------------------------------------------------------------------------


def import_graph(modules: Mapping[str, Module], *moments: str) -> dict[str, set[str]]:
    """Return by module those modules of the project that it imports at some moments."""
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for name, module in modules.items():
        for target, when in imports(module):
            if when in moments:
                homes = [t for t in (target, target.rpartition(".")[0]) if t in modules]
                graph[name].update(homes[:1])
    return graph


def joined(graph: Graph, node_of: Callable[[str], str]) -> dict[str, set[str]]:
    """Return the graph between groups of nodes, without what stays inside one."""
    result: dict[str, set[str]] = {node_of(name): set() for name in graph}
    for name, targets in graph.items():
        result[node_of(name)] |= {node_of(target) for target in targets} - {node_of(name)}
    return result


def components(graph: Graph) -> list[list[str]]:
    """Return the strongly connected components, each after all those that it reaches (Tarjan)."""
    index, low, stack, found = dict[str, int](), dict[str, int](), list[str](), []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph[node]):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            start = stack.index(node)
            found.append(sorted(stack[start:]))
            del stack[start:]

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def num_floors(graph: Graph) -> int:
    """Return the length of the longest chain, where each component is one link."""
    height: dict[str, int] = {}
    for component in components(graph):
        below = {t for node in component for t in graph[node]} - set(component)
        own = 1 + max((height[target] for target in below), default=0)
        height.update(dict.fromkeys(component, own))
    return max(height.values(), default=0)


def circles(graph: Graph) -> list[list[str]]:
    return [component for component in components(graph) if len(component) > 1]


def graph_figures(graph: Graph, typed: Graph, at_load: Graph) -> dict[str, Any]:
    """Return the figures of one level, with what is imported for type checkers and at load."""
    num_arrows = sum(map(len, graph.values()))
    return {
        "nodes": len(graph),
        "arrows": num_arrows,
        "type_only_arrows": sum(map(len, typed.values())) - num_arrows,
        "arrows_at_load": sum(map(len, at_load.values())),
        "floors": num_floors(graph),
        "floors_at_load": num_floors(at_load),
        "circles": circles(graph),
        "circles_with_types": circles(typed),
    }


# --- figures ------------------------------------------------------------------------------------


def rank(values: Iterable[int], share: float) -> int:
    """Return the nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1] if ordered else 0


def above(counts: Mapping[str, int], limit: int) -> dict[str, int]:
    """Return what is above a limit, the largest first."""
    return {name: n for name, n in Counter(counts).most_common() if n > limit}


def figures(modules: Mapping[str, Module]) -> dict[str, Any]:
    """Return all figures of some modules."""
    graphs = [
        import_graph(modules, LOAD, FUNCTION),
        import_graph(modules, LOAD, FUNCTION, TYPES),
        import_graph(modules, LOAD),
    ]
    nodes: dict[str, Callable[[str], str]] = {
        "files": lambda name: name,
        "packages": lambda name: modules[name].package,
        "rooms": lambda name: modules[name].room,
    }
    own = [function for module in modules.values() for function in functions(module)]
    lengths = [function.num_lines for function in own]
    sizes = {module.path: module.num_lines for module in modules.values()}
    return {
        "files": len(modules),
        "lines": sum(sizes.values()),
        "median_file_lines": statistics.median(sizes.values()) if sizes else 0,
        "files_per_folder": dict(Counter(module.package for module in modules.values())),
        "imports": {
            level: graph_figures(*(joined(graph, node) for graph in graphs))
            for level, node in nodes.items()
        },
        "functions": len(own),
        "median_function_lines": statistics.median(lengths) if lengths else 0,
        "p90_function_lines": rank(lengths, 0.9),
        "many_arguments": above({f.where: f.num_arguments for f in own}, MAX_ARGUMENTS),
        "long_functions": above({f.where: f.num_lines for f in own}, MAX_FUNCTION_LINES),
        "long_files": above(sizes, MAX_FILE_LINES),
    }


def all_figures(root: Path) -> dict[str, dict[str, Any]]:
    """Return the figures of each package, and of all as one."""
    modules = read_modules(root)
    parts = {
        top: {name: module for name, module in modules.items() if name.split(".")[0] == top}
        for top in TOPS
    }
    return {name: figures(part) for name, part in (parts | {"all": modules}).items()}


def table(told: Mapping[str, dict[str, Any]]) -> str:
    """Return the figures as text, one column a package, and what is above the limits."""
    columns = list(told.values())
    rows: list[tuple[str, list[Any]]] = [
        ("files", [c["files"] for c in columns]),
        ("lines", [c["lines"] for c in columns]),
        ("lines of a file, median", [c["median_file_lines"] for c in columns]),
        ("packages", [len(c["files_per_folder"]) for c in columns]),
        (
            "most files in a folder",
            [max(c["files_per_folder"].values(), default=0) for c in columns],
        ),
    ]
    for level in ("files", "packages", "rooms"):
        own = [c["imports"][level] for c in columns]
        for key in LEVEL_COUNTS:
            rows.append((f"{level}: {key.replace('_', ' ')}", [o[key] for o in own]))
        rows.append((f"{level}: circles", [len(o["circles"]) for o in own]))
        rows.append((f"{level}: circles with types", [len(o["circles_with_types"]) for o in own]))
    rows += [
        ("functions", [c["functions"] for c in columns]),
        ("lines of a function, median", [c["median_function_lines"] for c in columns]),
        ("lines of a function, p90", [c["p90_function_lines"] for c in columns]),
        (f"functions > {MAX_ARGUMENTS} arguments", [len(c["many_arguments"]) for c in columns]),
        (f"functions > {MAX_FUNCTION_LINES} lines", [len(c["long_functions"]) for c in columns]),
        (f"files > {MAX_FILE_LINES} lines", [len(c["long_files"]) for c in columns]),
    ]
    lines = [" " * 30 + "".join(f"{name:>12}" for name in told)]
    lines += [f"{label:30}" + "".join(f"{value:>12}" for value in row) for label, row in rows]
    whole = told["all"]
    for key in ("many_arguments", "long_functions", "long_files"):
        lines += ["", key.replace("_", " ") + ":"]
        lines += [f"  {count:4} {where}" for where, count in whole[key].items()]
    for key in ("circles", "circles_with_types"):
        named = {", ".join(circle) for own in whole["imports"].values() for circle in own[key]}
        lines += ["", *(f"{key.replace('_', ' ')}: {names}" for names in sorted(named))]
    return "\n".join(lines)


def revision(root: Path) -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--abbrev=40", "--exclude=*"],
        cwd=root,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")
    args = parser.parse_args(argv)
    told = all_figures(args.root)
    if args.json:
        print(json.dumps({"commit": revision(args.root), **told}, indent=1))
    else:
        print(table(told))
    return 0


if __name__ == "__main__":
    sys.exit(main())
