"""The time of a commit, by the name that runs record."""

import os
import subprocess
from pathlib import Path

import pytest

from pipeline.files.revision import commit_time


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of a repository with one commit, made 1000000000 seconds after 1970."""
    (tmp_path / "code.py").write_text("1\n")
    env = dict(os.environ)
    for role in ("AUTHOR", "COMMITTER"):
        values = {"NAME": "x", "EMAIL": "x", "DATE": "1000000000 +0000"}
        env |= {f"GIT_{role}_{name}": value for name, value in values.items()}
    for args in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *args], check=True, env=env)
    return tmp_path / "code.py"


def test_a_commit_that_is_known_here_has_a_time(source: Path) -> None:
    command = ["git", "-C", str(source.parent), "rev-parse", "--short", "HEAD"]
    revision = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    assert commit_time(revision, source) == 10**9
    assert commit_time(f"{revision}-dirty", source) == 10**9


def test_any_other_word_has_none(source: Path) -> None:
    for word in ("deadbeef", "unknown", "", "HEAD", "--output=stolen", "abcd\n"):
        assert commit_time(word, source) is None
    assert not (source.parent / "stolen").exists()
