"""The commands on pages: each exists, and so do its options, presets, sweeps and settings.

Four pages are typed as printed by other tests (`TYPED`). Of the others, commands of `spire` are
parsed and their settings resolved here, and targets of make looked up; nothing runs. So are runs
and sweeps with settings that stand in a sentence of any page.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.cli.command import parser_of
from pipeline.cli.main import VERBS
from pipeline.cli.presets import preset_and_settings
from pipeline.cli.words import split_words
from pipeline.config.load import load_config
from pipeline.theory.config import load_theory
from spire_core.errors import ConfigError
from sweeps.cli import MORE_VERBS
from sweeps.design.effect import check_effects
from sweeps.design.load import load_sweep, sweep_names
from sweeps.design.points import trials
from sweeps.primary import MEASURES

ROOT = Path(__file__).parents[3]
TYPED = {  # by another test, as printed
    "docs/first-hour.md": "tests/e2e/test_commands.py",
    "docs/extending.md": "tests/unit/sweep/test_extending.py",
    "docs/algorithm.md": "tests/unit/run/experiment/test_algorithm_page.py",
    "docs/python.md": "tests/unit/sweep/test_python.py",
}
GENERATED = ("docs/cli.md", "docs/mistakes.md")  # out of the command, and out of what was typed
NOT_RUN = "not run"  # what a page says beside other programs' commands, or above them
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
    others = [page for page in PAGES if page not in (*TYPED, *GENERATED)]
    found = [(page, line) for page in others for line in lines(page)]
    return [(page, line) for page, line in found if re.match(rf"{program} +[\w-]", line)]


def in_sentences() -> list[tuple[str, str]]:
    """The page and the words of each run and sweep with settings that a sentence names."""
    written = [page for page in PAGES if page not in GENERATED]
    return [(page, line) for page in written for line in INLINE.findall((ROOT / page).read_text())]


SPIRE = commands("spire") + in_sentences()


@pytest.mark.parametrize(("page", "line"), SPIRE, ids=[f"{page}: {line}" for page, line in SPIRE])
def test_a_command_is_one_that_would_be_understood(page: str, line: str, tmp_path: Path) -> None:
    _, *words = shlex.split(line, comments=True)
    args, rest = parser_of((*VERBS, *MORE_VERBS)).parse_known_args(words)
    assert not [word for word in rest if word.startswith("-")]
    typed = [*getattr(args, "words", ()), *rest]
    if args.verb == "run":
        load_config(*preset_and_settings(typed))
    elif args.verb == "theory":
        name, *settings = typed
        load_theory(name, settings)
    elif args.verb == "sweep":
        file = args.file
        if file in NAMES:
            [text] = re.findall(
                r"```yaml\n(preset: .*?)```", (ROOT / "docs/sweeps.md").read_text(), re.S
            )
            file = str(tmp_path / "mine.yaml")
            Path(file).write_text(text)
        planned = trials(load_sweep(file, typed))
        assert planned
        check_effects(planned)
    elif args.verb == "report":
        assert {*split_words(typed)[0]} <= {*sweep_names(), *NAMES, "last"}
    else:
        _check_settings(typed)


def _check_settings(words: list[str]) -> None:
    """Raise ConfigError for a setting that no run has."""
    load_config(None, split_words(words)[1])


def test_what_nobody_could_type_is_found() -> None:
    with pytest.raises(ConfigError):
        _check_settings(["last", "adapt.epoch=3"])
    assert len(SPIRE) > 30
    assert {page for page, _ in in_sentences()} >= {"README.md", "docs/first-hour.md"}
    assert {page for page, _ in SPIRE} >= {"README.md", "docs/privacy.md", "docs/failures.md"}


def test_the_page_of_sweeps_lists_each_built_in_sweep_and_each_measure() -> None:
    """Of the twins for GPUs the paper's sweeps stand for both."""
    page = (ROOT / "docs/sweeps.md").read_text()
    ours = {
        name for name in sweep_names() if not name.startswith("paper-") or name.endswith("-cpu")
    }
    assert [name for name in sorted({*ours, *MEASURES}) if f"`{name}`" not in page] == []


def test_targets_of_make_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    named = {line.split()[1] for _, line in commands("make")}
    assert {"run", "test", "check"} <= named <= {*targets}


@pytest.mark.parametrize("page", TYPED)
def test_a_page_is_typed_by_the_test_that_says_so(page: str) -> None:
    assert Path(page).name in (ROOT / TYPED[page]).read_text()


@pytest.mark.parametrize("page", [page for page in PAGES if page not in (*TYPED, *GENERATED)])
def test_a_page_says_that_other_programs_commands_are_not_run(page: str) -> None:
    """Those of Ray, MLflow, pip and Docker: a page that has any says `not run`."""
    program = re.compile(r"(ray|mlflow|pip|python|docker|FROM|sbatch) ")
    others = [line for line in lines(page) if program.match(line)]
    assert not others or NOT_RUN in (ROOT / page).read_text(), others
