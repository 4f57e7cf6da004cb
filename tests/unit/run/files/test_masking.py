"""No form of a secret is shown, and what holds none stays readable."""

import json
import time

import pytest

from pipeline.config.tracking import TrackingConfig, ui_address
from pipeline.files.masking import HIDDEN, mask, masked

SECRET = "s3cret"
ABFSS = "abfss://acc.dfs.core.windows.net/c/f?tenant_id=a&client_id=b"
FORMS = [
    # a user and a password before the host
    "http://me:s3cret@host:5000",
    "https://s3cret@host/x",
    "http://me:p@s3cret@host/a",
    "s3://AKIA:s3cret@bucket/folder?region=eu-west-1",
    "postgresql://u:12/s3cret@h",
    "postgresql://u:a/s3cret@h/db",
    "postgresql://u:a@b/s3cret@h/db",
    "postgresql://u:a?s3cret@h/db",
    "postgresql://u:a#s3cret@h/db",
    "postgresql://u:s3cret#a@h/db",
    "postgresql://u:12?s3cret@h/db",
    "mysql+pymysql://u:s3cret%40@h/db",
    "postgresql://u%3As3cret@h/db",
    "postgresql://u%3A12%2Fs3cret%40h/db",
    "http%3A%2F%2Fme%3As3cret%40host",
    "http%253A%252F%252Fme%253As3cret%2540host",
    "mysql://u:back\\s3cret@h",
    # a value of the query
    f"{ABFSS}&client_secret=s3cret",
    f"{ABFSS}&account_key=s3cret==",
    "abfss://c@acc.dfs.core.windows.net/f?sas_token=sv%3D2022&sig=s3cret",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3D%7Bx%7D%3BUID%3Dsa%3BPWD%3Ds3cret",
    "mssql+pyodbc:///?odbc_connect=DRIVER={x};UID=sa;PWD=s3cret",
    "postgresql://h/db?user=me&password=s3cret",
    "postgresql://h/db?PASSWORD=s3cret",
    "postgresql://h/db?sslpassword=ab@s3cret",
    "postgresql://h/db?passw%6Frd=s3cret",
    "postgresql://h/db?passfile=/home/me/s3cret",
    "s3://b/f?secret_key=s3cret&region=eu-west-1",
    "s3://b/f?region=eu-west-1%26secret_key%3Ds3cret",
    "s3://b/f?endpoint_override=http%3A%2F%2Fme%3As3cret%40host",
    "https://h/x?access_token=s3cret",
    "https://h/x?api_key=s3cret",
    "https://h/x?X-Amz-Signature=s3cret",
    "https://h/x?sv=1&sig=s3cret",
    "https://h/x?s3cret",
    "https://h/x?a=1;b=s3cret",
    "https://h/x#access_token=s3cret",
    "https://h/x#/page?token=s3cret",
    "jdbc:sqlserver://h:1433;user=sa;password=s3cret",
    "databricks://token=s3cret",
    # outside of a URI, as drivers and clouds quote it
    "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=s3cret==;EndpointSuffix=b",
    "DRIVER={ODBC Driver 18};SERVER=h;UID=sa;PWD={s3;cret s3cret}",
    "host=h user=me password=s3cret dbname=d",
    "connection failed: password='my s3cret' host=h",
    "AWS_SECRET_ACCESS_KEY=s3cret",
    "PWD%3Ds3cret",
    "se=2030&sp=r&sig=s3cret",
    "{'Authorization': 'Bearer s3cret'}",
]
HARMLESS = [
    "s3://bucket/folder?region=eu-west-1",
    "s3://bucket/folder?endpoint_override=http%3A%2F%2Flocalhost%3A9000&scheme=http",
    "s3://bucket/a%20b/c%40d",
    "gs://bucket/folder?retry_limit_seconds=5",
    "hdfs://host:8020/folder?replication=2",
    "sqlite:////home/me@work/c:d/mlflow.db",
    "sqlite:////home/me/a;b/c#/mlflow.db",
    "postgresql://host:5432/db?sslmode=require&connect_timeout=5",
    "file:///x",
    "http://host:5000",
    "http://host:5000/#/experiments/1/runs/0123456789abcdef",
    "http://host/a@b",
    "databricks://profile",
    '{"a":"http://h","b":"c@d"}',
    "(see http://host:5000/a.html), or https://host/b.",
    "client.lr=0.001 a key=value, a secret, the password: none",
]


@pytest.mark.parametrize("text", FORMS)
@pytest.mark.parametrize("around", ["{}", "expected a store at {!r}, got none", "at {}: gone."])
def test_a_secret_of_any_form_is_masked(text: str, around: str) -> None:
    shown = mask(around.format(text))
    assert SECRET not in shown
    assert HIDDEN in shown
    assert mask(shown) == shown


@pytest.mark.parametrize("text", HARMLESS)
def test_a_text_without_secrets_stays_as_it_is(text: str) -> None:
    assert mask(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:p@ss@host/a", "http://***@host/a"),
        ("pg://u:p@h/d and http://t@h", "pg://***@h/d and http://***@h"),
        ("s3://b?region=a&secret_key=b", "s3://b?region=a&secret_key=***"),
        (ABFSS, "abfss://acc.dfs.core.windows.net/c/f?tenant_id=***&client_id=***"),
    ],
)
def test_the_rest_of_a_uri_is_shown(text: str, shown: str) -> None:
    assert mask(text) == shown


@pytest.mark.parametrize("text", FORMS)
def test_masked_values_are_still_json(text: str) -> None:
    values = {"a": [text, {"b": f'say "{text}" \\'}], "c": (text, 1, None), "password='": "'"}
    assert SECRET not in json.dumps(masked(values))
    assert masked(values)["a"][1].keys() == {"b"}
    stored = mask(json.dumps(values))
    assert SECRET not in stored
    assert json.loads(stored).keys() == values.keys()


@pytest.mark.parametrize(
    "text", ["a" * 100_000, "://" * 30_000, "token" * 20_000, "a@b://" * 9_000, "://%" + "25" * 900]
)
def test_a_long_text_takes_no_time(text: str) -> None:
    began = time.monotonic()
    mask(text)
    assert time.monotonic() - began < 5


def test_the_address_of_a_runs_page_is_printed_whole() -> None:
    address = ui_address(TrackingConfig(uri="http://127.0.0.1:5000"), "1")
    assert "?workflowType=machine_learning" in address
    assert mask(f"open {address}") == f"open {address}"
