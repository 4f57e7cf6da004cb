"""The commands on pages: each exists, and so do its options, presets, sweeps and settings.

Four pages are typed as printed by other tests (`TYPED`). Of the rest, commands of `spire` are
parsed and their settings resolved here, and targets of make looked up; nothing runs. So are runs
and sweeps with settings that stand in a sentence of any page.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from pipeline.cli.command import command_of
from pipeline.cli.main import VERBS
from pipeline.cli.words import preset_and_settings, split_words
from pipeline.config.load import load_config
from pipeline.theory.config import load_theory
from spire_core.errors import ConfigError
from sweeps.cli import MORE_VERBS
from sweeps.design.config import load_sweep, sweep_names
from sweeps.design.points import check_effects, trials

ROOT = Path(__file__).parents[3]
TYPED = ("docs/first-hour.md", "docs/extending.md", "docs/algorithm.md", "docs/python.md")
NAMES = ("NAME", "mine.yaml", "mine")  # that stand for a user's own sweep
BLOCK = re.compile(r"^ *```(?:sh|bash)?\n(.*?)^ *```$|^((?:    spire \S.*\n)+)", re.M | re.S)
INLINE = re.compile(r"`(spire (?:run|sweep) [a-z][\w-]* [^`]*=[^`]*)`")  # in a sentence
PAGES = ["README.md", *(str(p.relative_to(ROOT)) for p in sorted((ROOT / "docs").glob("*.md")))]


def lines(page: str) -> Iterator[str]:
    """Yield the lines of a page's blocks of commands, each with those that continue it."""
    for fenced, indented in BLOCK.findall((ROOT / page).read_text()):
        yield from filter(
            None, map(str.strip, (fenced or indented).replace("\\\n", " ").split("\n"))
        )


def commands(program: str) -> list[tuple[str, str]]:
    """The page and the words of each command of a program, of pages that no other test types."""
    others = [page for page in PAGES if page not in TYPED]
    found = [(page, line) for page in others for line in lines(page)]
    return [(page, line) for page, line in found if re.match(rf"{program} +[\w-]", line)]


def in_sentences() -> list[tuple[str, str]]:
    """The page and the words of each run and sweep with settings that a sentence names."""
    return [(page, line) for page in PAGES for line in INLINE.findall((ROOT / page).read_text())]


SPIRE = commands("spire") + in_sentences()


@pytest.mark.parametrize(("page", "line"), SPIRE, ids=[f"{page}: {line}" for page, line in SPIRE])
def test_a_command_is_one_that_would_be_understood(page: str, line: str, tmp_path: Path) -> None:
    _, *words = shlex.split(line, comments=True)
    verb, typed = command_of((*VERBS, *MORE_VERBS)), dict[str, Any]()
    while isinstance(verb, click.Group):
        verb, name = verb.commands[words[0]], words.pop(0)
    if not {"--help", "--version"} & {*words}:
        typed = verb.make_context(name, words).params
    settings = typed.get("words", ())
    if name == "run":
        load_config(*preset_and_settings(settings))
    elif name == "theory":
        load_theory(settings[0], settings[1:])
    elif name in ("sweep", "plan"):
        file = typed["file"]
        if file in NAMES:
            [text] = re.findall(
                r"```yaml\n(preset: .*?)```", (ROOT / "docs/sweeps.md").read_text(), re.S
            )
            file = str(tmp_path / "mine.yaml")
            Path(file).write_text(text)
        planned = trials(load_sweep(file, settings))
        assert planned
        check_effects(planned)
    elif name == "report":
        assert {*split_words(settings)[0]} <= {*sweep_names(), *NAMES, "last"}
    else:
        _check_settings(settings)


def _check_settings(words: Sequence[str]) -> None:
    """Raise ConfigError for a setting that no run has."""
    load_config(None, split_words(words)[1])


def test_what_nobody_could_type_is_found() -> None:
    with pytest.raises(ConfigError):
        _check_settings(["last", "adapt.epoch=3"])
    assert len(SPIRE) > 30


def test_targets_of_make_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    named = {line.split()[1] for _, line in commands("make")}
    assert {"run", "test", "check"} <= named <= {*targets}
