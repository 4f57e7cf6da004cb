"""Where the pages lead: links, anchors, paths and names in files; and the maps in packages."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/**/*.md")
    for path in ROOT.glob(pattern)
)
PACKAGES = sorted(
    str(path.parent.relative_to(ROOT))
    for layer in ("spire_core", "pipeline", "sweeps")
    for path in (ROOT / layer).rglob("__init__.py")
)
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FOLDERS = "spire_core|pipeline|sweeps|tests|benchmarks|docs"
NAMED_PATH = re.compile(rf"\b(?:{FOLDERS})/[\w./-]+\.(?:py|yaml|md)\b")
NAME_IN_FILE = re.compile(rf"`([\w.]+)` in `((?:{FOLDERS})/[\w/]+\.py)`")


def text_of(page: Path) -> str:
    """Return a page without its code blocks, whose comments look like headings."""
    return FENCE.sub("", page.read_text())


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    for heading in HEADING.findall(text):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        count = found[anchor] = found.get(anchor, -1) + 1
        if count:
            found[f"{anchor}-{count}"] = 0
    return set(found)


def dead_links(page: Path) -> list[str]:
    """Return the relative links of a page that lead to no file or to no heading."""
    dead = []
    for link in LINK.findall(text_of(page)):
        if re.match(r"\w+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        if not target.exists() or (anchor and anchor not in anchors(text_of(target))):
            dead.append(link)
    return dead


def defines(file: Path, name: str) -> bool:
    """Return whether a file has a class, function or variable of this name, maybe of a class."""
    nodes = list(ast.parse(file.read_text()).body)
    for part in name.split("."):
        held = [node for node in nodes if part in names_of(node)]
        if not held:
            return False
        nodes = [child for node in held for child in getattr(node, "body", [])]
    return True


def names_of(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return [target.id for target in targets if isinstance(target, ast.Name)]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert dead_links(ROOT / page) == []


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist_and_define_what_it_says(page: str) -> None:
    text = (ROOT / page).read_text()
    paths = {*NAMED_PATH.findall(text)}
    assert sorted(path for path in paths if not (ROOT / path).is_file()) == []
    named = NAME_IN_FILE.findall(text)
    assert [pair for pair in named if not defines(ROOT / pair[1], pair[0])] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_maps_all_its_files(package: str) -> None:
    folder = ROOT / package
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()), clean=False) or ""
    mapped = re.findall(r"^([\w/]+)  +\S", text, re.MULTILINE)
    files = [path.stem for path in folder.glob("*.py") if path.name != "__init__.py"]
    rooms = [f"{path.parent.name}/" for path in folder.glob("*/__init__.py")]
    data = [name for name in mapped if name.endswith("/") and (folder / name).is_dir()]
    assert len(mapped) == len({*mapped})
    assert {*mapped} == {*files, *rooms, *data}


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# The page: `a_b`, c-d\n[1](#the-page-a_b-c-d) [2](#c) [3](no.md) [4](x:/y)\n")
    assert dead_links(page) == ["#c", "no.md"]


def test_a_name_is_looked_up_in_its_file(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("B: int = 1\nclass C:\n    d = 2\n    def e(self): ...\n")
    names = ("B", "C", "C.d", "C.e", "e", "C.B")
    assert [defines(file, name) for name in names] == [True] * 4 + [False] * 2


def test_committed_reports_name_no_folder_of_the_machine_that_made_them() -> None:
    """Their rows were read from a path in the checkout, as `docs/results/fonts/rows.csv`."""
    reports = [*ROOT.glob("docs/results/*/report.html"), *ROOT.glob("docs/results/*/tables/*.csv")]
    texts = [path.read_text(encoding="utf-8") for path in reports]
    assert any("docs/results/fonts/rows.csv" in text for text in texts)
    assert not [
        path.name
        for path, text in zip(reports, texts, strict=True)
        if "/docs/results/" in text or f"{ROOT}/" in text
    ]
