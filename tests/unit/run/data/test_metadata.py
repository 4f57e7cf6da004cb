"""Metadata whose cells no file system takes."""

from pathlib import Path

import pytest

from pipeline.data.metadata import read_rows
from spire_core.errors import DataError


def test_a_name_that_is_too_long_for_a_file_is_one_sentence(tmp_path: Path) -> None:
    for name in ("a" * 300, "a" * 5000, "/".join(["a" * 200] * 30)):
        (tmp_path / "meta.csv").write_text(f"path,client\n{name},one\n")
        with pytest.raises(DataError, match=r"an image for row 1 of .*, got no file 'aaa"):
            read_rows(tmp_path, "meta.csv", ("client", "caption"))
        with pytest.raises(DataError, match="no such file"):
            read_rows(tmp_path, f"{name}.csv", ("client", "caption"))
