"""Reads the metadata of the user's own images: CSV, JSON lines or Parquet, a row per image.

Columns: path (below the folder of the images), client, and optionally caption, split ("train" or
"test") and class. Every mistake is one sentence that names its row.
"""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from spire_core.errors import DataError

MAX_CAPTION = 500  # characters
MAX_NAME = 200  # characters of a client's or a class's name
MAX_ROWS = 10_000_000
# By csv, json and pyarrow, whose errors are all of these.
UNREADABLE = (OSError, ValueError, TypeError, LookupError, NotImplementedError)


class Row(NamedTuple):
    """One image: its path below the folder, its client, and what else is known."""

    path: str
    client: str
    caption: str | None
    split: str | None
    class_name: str | None


def read_rows(
    base: Path, metadata: str, columns: tuple[str, str], needs_client: bool = True
) -> list[Row]:
    """Return the rows of a metadata file in the folder `base`, checked, in the file's order.

    `columns`: the names of the columns with the client and the caption. The caption's may be
    missing, and the client's unless it is needed; then it is "", and no column `split` is read.
    """
    file = _below(base, metadata, "data.metadata")
    records = _records(file)
    if not records:
        raise DataError(f"expected rows in {file}, got none: list the images")
    client, caption = columns
    if not needs_client and client not in records[0]:
        client = ""
    _check_columns(records[0], file, client, caption)
    rows = [
        _row(base, record, client, caption, f"row {at} of {file}")
        for at, record in enumerate(records if needs_client else map(_unsplit, records), 1)
    ]
    _refuse_doubles(rows, file)
    for what, values in (
        ("caption", {row.caption is None for row in rows}),
        ("class", {row.class_name is None for row in rows}),
    ):
        if len(values) > 1:
            raise DataError(f"expected a {what} in every row of {file} or in none: add the missing")
    return rows


def _unsplit(record: dict[str, Any]) -> dict[str, Any]:
    """Return a row without its split, which is that of other data."""
    return {column: value for column, value in record.items() if column != "split"}


def _check_columns(record: dict[str, Any], file: Path, client: str, caption: str) -> None:
    """Raise DataError for a column that is missing; the caption's may be, unless it was named."""
    named = () if caption == "caption" else (caption,)
    for column in ("path", client, *named):
        if column in record or not column:
            continue
        advice = "add it, with each image's path below the folder"
        if len(record) == 1 and (separators := set(";\t|") & set(_listed(record))):
            advice = f"separate columns by commas, not by {min(separators)!r}"
        elif column == client:
            advice = "add it, or name the client's column in data.clients"
        elif column in named:
            advice = "name the caption's column in data.captions"
        raise DataError(f"expected a column {column!r} in {file}, got {_listed(record)}: {advice}")


def _records(file: Path) -> Sequence[dict[str, Any]]:
    """Return the rows of a file as dictionaries; DataError for a file that cannot be read."""
    try:
        if file.suffix.lower() == ".parquet":
            return _limited(_parquet_rows(file))
        if file.suffix.lower() == ".csv":
            with file.open(encoding="utf-8-sig", newline="") as text:
                table = csv.DictReader(text, strict=True)
                _refuse_twins(table.fieldnames or ())
                return _limited(table)
        if file.suffix.lower() in (".jsonl", ".ndjson"):
            with file.open(encoding="utf-8-sig") as text:
                lines = (line for line in text if line.strip())
                found = (json.loads(line, object_pairs_hook=_object) for line in lines)
                return _limited(found)
    except (*UNREADABLE, csv.Error, RecursionError) as error:
        reason, advice = " ".join(str(error).split()), "correct it"
        if not _is_file(file):
            reason, advice = "no such file", "data.metadata is the name of a file in data.path"
        raise DataError(
            f"expected CSV, JSON lines or Parquet in {file}, got {reason}: {advice}"
        ) from error
    raise DataError(
        f"expected data.metadata as .csv, .jsonl or .parquet, got {file.name!r}: convert it"
    )


def _parquet_rows(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file, batch by batch."""
    from pyarrow.parquet import ParquetFile  # takes a third of a second

    with ParquetFile(file) as table:
        _refuse_twins(table.schema_arrow.names)
        for batch in table.iter_batches():
            yield from batch.to_pylist()


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    _refuse_twins([name for name, _ in pairs])
    return dict(pairs)


def _refuse_twins(names: Sequence[str]) -> None:
    """Raise ValueError if two columns have one name: a row would hold the last one's cell."""
    for name in {*names} - {""}:
        if names.count(name) > 1:
            raise ValueError(f"{names.count(name)} columns named {name!r:.80}")


def _limited(records: Iterable[Any]) -> list[dict[str, Any]]:
    rows = []
    for record in records:
        if not isinstance(record, dict):
            raise ValueError(f"{record!r:.50} for an object")
        if None in record:  # of csv: more cells than columns
            raise ValueError(f"more cells than columns in row {len(rows) + 1}")
        rows.append(record)
        if len(rows) > MAX_ROWS:
            raise ValueError(f"more than {MAX_ROWS} rows")
    return rows


def _row(base: Path, record: dict[str, Any], client: str, caption: str, where: str) -> Row:
    path = _text(record, "path", where, None)
    split = _text(record, "split", where, MAX_NAME) if _has(record, "split") else None
    if split not in (None, "train", "test"):
        raise DataError(f"expected the split train or test in {where}, got {split!r}: correct it")
    file = _below(base, path, f"the path in {where}")
    if not _is_file(file):
        raise DataError(
            f"expected an image for {where}, got no file {path!r:.80}: correct the path"
        )
    return Row(
        file.relative_to(base.resolve()).as_posix(),
        _text(record, client, where, MAX_NAME) if client else "",
        _text(record, caption, where, MAX_CAPTION) if caption in record else None,
        split,
        _text(record, "class", where, MAX_NAME) if _has(record, "class") else None,
    )


def _has(record: dict[str, Any], column: str) -> bool:
    return record.get(column) not in (None, "")


def _text(record: dict[str, Any], column: str, where: str, limit: int | None) -> str:
    """Return a cell as a text; DataError for one that is empty, too long or cannot be shown."""
    value = record.get(column)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"expected a text as {column} in {where}, got {value!r:.50}: fill it in")
    text = value.strip()
    if limit is not None and len(text) > limit:
        raise DataError(
            f"expected at most {limit} characters as {column} in {where}, got {len(text)}: "
            "shorten it"
        )
    if not text.isprintable():
        raise DataError(
            f"expected a {column} without control characters in {where}, got {text!r:.50}: remove "
            "them"
        )
    return text


def _below(base: Path, path: str, what: str) -> Path:
    """Return a path below the folder; DataError if it leads out of it."""
    try:
        file = (base / path).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"expected {what} below {base}, got {path!r:.80} ({error})") from error
    if not file.is_relative_to(base.resolve()):
        raise DataError(f"expected {what} below {base}, got {path!r:.80}: move the file there")
    return file


def _is_file(file: Path) -> bool:
    """Return whether there is a file; also where a name is too long or a folder is closed."""
    try:
        return file.is_file()
    except OSError:
        return False


def _refuse_doubles(rows: Sequence[Row], file: Path) -> None:
    first: dict[str, int] = {}
    for at, row in enumerate(rows, 1):
        if row.path in first:
            raise DataError(
                f"expected each image once in {file}, got {row.path} in rows {first[row.path]} and "
                f"{at}: remove one"
            )
        first[row.path] = at


def _listed(record: dict[str, Any]) -> str:
    return ", ".join(str(name) for name in list(record)[:20])
