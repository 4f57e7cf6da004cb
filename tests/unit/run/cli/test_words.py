"""Which words of a command line are names, and which are settings."""

import pytest

from pipeline.cli.words import preset_and_settings, split_words


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


def test_the_preset_for_newcomers_is_taken_unless_one_is_named() -> None:
    assert preset_and_settings(["seed=1"]) == ("mnist-cpu", ["seed=1"])
    assert preset_and_settings(["seed=1", "smoke"]) == ("smoke", ["seed=1"])
