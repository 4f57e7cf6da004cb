"""Which words of a command line are names, and which are settings."""

from pathlib import Path

import pytest

from pipeline.cli.audit import PLACES
from pipeline.cli.words import split_words
from pipeline.runs.ownership import READ

PAGE = (Path(__file__).parents[4] / "docs" / "cli.md").read_text()


@pytest.mark.parametrize(
    ("word", "is_setting"),
    [
        ("seed=0", True),
        ("data.path=a folder", True),
        ("client.lr =0.1", True),  # a mistake that is to be named as one
        ("spire seed=0", False),  # what a sweep calls a trial
        ("fedavg_ft lr=0.001 seed=10", False),
        ("last", False),
    ],
)
def test_the_name_of_a_trial_is_no_setting(word: str, is_setting: bool) -> None:
    assert split_words([word]) == (([], [word]) if is_setting else ([word], []))


@pytest.mark.parametrize("verb", ["resume", "audit"])
def test_the_places_of_files_that_a_sent_run_reads_can_be_given(verb: str) -> None:
    assert {f"{key}=" for key in READ} <= {*PLACES}
    text = PAGE.partition(f"## spire {verb}\n")[2].partition("\n## ")[0]
    assert [key for key in READ if key not in text] == []
