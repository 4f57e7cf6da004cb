"""Where the pages lead: links, anchors, and the paths of files."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/**/*.md")
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FOLDERS = "spire_core|pipeline|sweeps|tests|benchmarks|docs"
NAMED_PATH = re.compile(rf"\b(?:{FOLDERS})/[\w./-]+\.(?:py|yaml|md)\b")


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


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert dead_links(ROOT / page) == []


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page: str) -> None:
    paths = {*NAMED_PATH.findall((ROOT / page).read_text())}
    assert sorted(path for path in paths if not (ROOT / path).is_file()) == []
