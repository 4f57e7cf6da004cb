"""Passwords are not shown, and what holds none stays readable."""

import json

import pytest

from pipeline.config.tracking import TrackingConfig, ui_address
from pipeline.files.masking import mask, masked


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:s3cret@host:5000/a", "http://me:***@host:5000/a"),
        ("http://me:p@s3cret@host/a", "http://me:***@host/a"),
        ("s3://KEY:s3cret@bucket/folder?region=x", "s3://KEY:***@bucket/folder?region=x"),
        ("postgresql://u:12/s3cret@h/db", "postgresql://u:***@h/db"),
        ("mysql+pymysql://u:s3cret%40@h/db", "mysql+pymysql://u:***@h/db"),
        ("pg://u:p@h/d and http://:t@h", "pg://u:***@h/d and http://:***@h"),
        ("got 'privacy.noise_key=s3cret'", "got 'privacy.noise_key=***'"),
    ],
)
def test_a_password_is_masked(text: str, shown: str) -> None:
    assert mask(f"expected {text}, got none") == f"expected {shown}, got none"
    assert mask(shown) == shown
    assert json.loads(mask(json.dumps({"a": [text], "b": 1}))) == {"a": [shown], "b": 1}
    assert masked({"a": [text, (1, None)]}) == {"a": [shown, [1, None]]}


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/folder?region=eu-west-1",
        "sqlite:////home/me@work/c:d/mlflow.db",
        "postgresql://me@host:5432/db?sslmode=require",
        "http://host/a@b",
        '{"a":"http://h:1","b":"c@d"}',
        "(see http://host:5000/a.html), or write to me@host: soon",
    ],
)
def test_a_text_without_passwords_stays_as_it_is(text: str) -> None:
    assert mask(text) == text


def test_the_address_of_a_runs_page_is_printed_whole() -> None:
    address = ui_address(TrackingConfig(uri="http://127.0.0.1:5000"), "1")
    assert "?workflowType=machine_learning" in address
    assert mask(f"open {address}") == f"open {address}"
