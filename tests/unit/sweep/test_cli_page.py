"""docs/cli.md is what the command says of itself."""

import pytest

from benchmarks.cli_page import PAGE, WIDTH, page
from pipeline.cli.command import parser_of
from pipeline.cli.main import VERBS
from sweeps.cli import MORE_VERBS


def test_the_page_is_the_commands_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", WIDTH)
    assert PAGE.read_text() == page(), "write it again: python -m benchmarks.cli_page"


@pytest.mark.parametrize(
    ("verb", "title", "name"),
    [("run", "presets:", "mnist-cpu"), ("sweep", "sweeps by name:", "paper-mnist-cpu")],
)
def test_help_ends_with_names(
    capsys: pytest.CaptureFixture[str], verb: str, title: str, name: str
) -> None:
    with pytest.raises(SystemExit):
        parser_of((*VERBS, *MORE_VERBS)).parse_args([verb, "--help"])
    listed = capsys.readouterr().out.partition(f"\n{title}\n")[2]
    assert name in listed.replace("\n", " ").replace(",", " ").split()
