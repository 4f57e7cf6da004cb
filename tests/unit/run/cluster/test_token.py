"""The token of Ray is nobody's but its owner's."""

from pathlib import Path

import pytest

from pipeline.cluster.token import keep_token_private, token_path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_a_new_token_is_for_its_owner_only_and_stays() -> None:
    keep_token_private()
    token = token_path().read_text()
    assert len(bytes.fromhex(token)) == 32
    assert token_path().stat().st_mode & 0o777 == 0o600
    assert [path.name for path in token_path().parent.iterdir()] == ["auth_token"]
    keep_token_private()
    assert token_path().read_text() == token


def test_a_token_that_all_could_read_is_kept_and_closed() -> None:
    token_path().parent.mkdir()
    token_path().write_text("of before")
    token_path().chmod(0o644)
    keep_token_private()
    assert token_path().read_text() == "of before"
    assert token_path().stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("name", "value"),
    [("RAY_AUTH_MODE", "disabled"), ("RAY_AUTH_TOKEN", "x"), ("RAY_AUTH_TOKEN_PATH", "/elsewhere")],
)
def test_another_choice_is_left_alone(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    keep_token_private()
    assert not token_path().exists()


def test_a_home_that_cannot_be_written_is_left_for_ray_to_name(home: Path) -> None:
    (home / ".ray").write_text("not a folder")
    keep_token_private()
    assert not token_path().exists()
