"""Types every mistake of benchmarks/mistakes.yaml, and writes docs/mistakes.md out of the answers.

python -m benchmarks.mistakes

A mistake is answered by exit code 2 and one sentence on stderr that holds the advice of the table.
Nothing is printed to stdout, and no file is written. `run`, `sweep` and `theory` are typed with
`--dry-run`, so a mistake that passes unseen trains nothing. Exit code 1 if an answer is none.
"""

import contextlib
import io
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from benchmarks.mistakes_folder import furnish
from sweeps import cli

TABLE = Path(__file__).with_suffix(".yaml")
PAGE = Path(__file__).parents[1] / "docs" / "mistakes.md"
HEAD = """# Mistakes and their answers

Each mistake below is answered by one sentence and exit code 2, before anything is computed or
written. The sentence says what was expected, what came, and what to do. `benchmarks/mistakes.py`
typed them and wrote this page, with `--dry-run` for `run`, `sweep` and `theory`. It typed them in a
folder with three finished runs (`digits`, `plain` of method `fedavg`, and `letters`, which takes
prompts), one that was stopped, images in `photos/`, and models, as on a machine of two CPUs. Lines
of Python that begin with `spire.` raise an error with the sentence; `run` is the run `digits`, and
`grey` an array of eight of its images. [failures.md](failures.md) is about what goes wrong later.
"""
RESOURCES = "pipeline.cluster.actor_plan.machine_resources"
MACHINE = {"CPU": 2.0, "GPU": 0.0}  # the same one everywhere
PLANNED = ("run", "sweep", "theory")
LONG = " ".join(["bold"] * 100)  # {long} in the table


@dataclass(frozen=True)
class Mistake:
    """A line that is typed, the advice that its answer must hold, and a file that it reads.

    The file's name is the second word of the command unless there is another.
    """

    typed: str
    advice: str
    file: str | None = None
    name: str | None = None

    @property
    def is_python(self) -> bool:
        return self.typed.startswith("spire.")

    @property
    def words(self) -> list[str]:
        return shlex.split(self.typed.replace("{long}", LONG))

    @property
    def environment(self) -> dict[str, str]:
        """Variables that stand before the command."""
        return dict(word.split("=", 1) for word in self.words[: self.words.index("spire")])

    @property
    def argv(self) -> list[str]:
        """The arguments of the command."""
        argv = self.words[self.words.index("spire") + 1 :]
        return [*argv, "--dry-run"] if argv and argv[0] in PLANNED else argv


@dataclass(frozen=True)
class Reply:
    """The answer to a mistake: exit code, both streams, and files that came or went."""

    code: int
    out: str
    err: str
    changed: tuple[str, ...]

    def fault(self, advice: str) -> str | None:
        """Return what is wrong with the answer; None if it is one sentence with the advice."""
        found = {
            f"exit code {self.code}": self.code != 2,
            f"stdout {self.out!r:.200}": bool(self.out),
            f"{self.err.count(chr(10))} lines on stderr": self.err.count("\n") != 1,
            "a traceback": "Traceback" in self.err,
            f"files {', '.join(self.changed)}": bool(self.changed),
            f"no {advice!r}": advice not in self.err,
        }
        faults = [name for name, is_met in found.items() if is_met]
        return f"{', '.join(faults)} in {self.err!r}" if faults else None


def mistakes() -> dict[str, list[Mistake]]:
    """Return the table by group."""
    groups: dict[str, list[Mistake]] = {}
    for group in yaml.safe_load(TABLE.read_text()):
        rows: dict[str, Any] = group["rows"]
        groups[group["title"]] = [_mistake(typed, row) for typed, row in rows.items()]
    return groups


def _mistake(typed: str, row: Any) -> Mistake:
    if isinstance(row, str):
        return Mistake(typed, row)
    return Mistake(typed, row["says"], row["file"], row.get("name"))


# --- typing -------------------------------------------------------------------------------------


def type_all(groups: dict[str, list[Mistake]], store: Path) -> dict[str, Reply]:
    """Return the answer to each line, typed in a new folder; `store` holds the data sets."""
    with tempfile.TemporaryDirectory() as name, _inside(Path(name), store):
        furnish(Path(name))
        rows = [row for rows in groups.values() for row in rows]
        return {row.typed: _type(row, Path(name), store) for row in rows}


@contextlib.contextmanager
def _inside(folder: Path, store: Path) -> Iterator[None]:
    """Work in a folder, without what the user's environment says of SPIRE."""
    before = dict(os.environ)
    for name in ("MLFLOW_TRACKING_URI", "SPIRE_ROOT", "RAY_ADDRESS"):
        os.environ.pop(name, None)
    os.environ |= {"SPIRE_DATA": str(store.absolute()), "COLUMNS": "100", "HF_HUB_OFFLINE": "1"}
    try:
        with contextlib.chdir(folder), mock.patch(RESOURCES, return_value=MACHINE):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _type(mistake: Mistake, folder: Path, store: Path) -> Reply:
    path = None
    if mistake.file is not None:
        path = folder / (mistake.name or mistake.argv[1])
        path.write_text(mistake.file)
    before = _files(folder)
    code, out, err = _raised(mistake) if mistake.is_python else _said(mistake)
    changed = tuple(sorted(before ^ _files(folder)))
    if path is not None:
        path.unlink()
    for real, shown in ((folder.resolve(), "/home/me"), (store.absolute(), "/data")):
        err = err.replace(str(real), shown)
    return Reply(code, out, err, changed)


def _said(mistake: Mistake) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    os.environ.update(mistake.environment)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(mistake.argv)
    except SystemExit as stopped:  # argparse's own way out
        code = int(stopped.code or 0)
    finally:
        for name in mistake.environment:
            del os.environ[name]
    return code, out.getvalue(), err.getvalue()


def _raised(mistake: Mistake) -> tuple[int, str, str]:
    """Return the answer to a line of Python: a sentence, as the command would print it."""
    import numpy as np

    import spire
    from spire_core.errors import SpireError

    known = {"spire": spire, "np": np, "run": spire.load("digits")}
    known["grey"] = np.zeros((8, 16, 16), np.uint8)
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            eval(mistake.typed, known)
        except SpireError as error:
            return 2, out.getvalue(), f"{type(error).__name__}: {error}\n"
    return 0, out.getvalue(), ""


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# --- the page -----------------------------------------------------------------------------------


def page(groups: dict[str, list[Mistake]], replies: dict[str, Reply]) -> str:
    """Return the page: a table for each group."""
    num = sum(map(len, groups.values()))
    parts = [HEAD, f"These are {num} mistakes.\n"]
    for title, rows in groups.items():
        lines = [f"| {_typed(row)} | {_cell(replies[row.typed].err)} |" for row in rows]
        parts.append("\n".join((f"## {title}\n", "| typed | answer |", "|---|---|", *lines, "")))
    return "\n".join(parts)


def _typed(mistake: Mistake) -> str:
    shown = f"`{mistake.typed}`".replace("|", "\\|").replace("{long}", "bold bold bold ...")
    if mistake.file is None:
        return shown
    holds = f"`{mistake.file.strip()!r}`".replace("|", "\\|")
    where = f" in `{mistake.name}`" if mistake.name else ""
    return f"{shown} with {holds}{where}" if mistake.file else f"{shown}, 0 bytes{where}"


def _cell(err: str) -> str:
    return f"`{err.strip()}`".replace("|", "\\|")


def main() -> int:
    """Type all, write the page, and say which answers are none."""
    from pipeline.data.datasets import store_root

    groups, store = mistakes(), store_root()
    replies = type_all(groups, store)
    PAGE.write_text(page(groups, replies))
    rows = [row for rows in groups.values() for row in rows]
    faults = {row.typed: replies[row.typed].fault(row.advice) for row in rows}
    bad = {typed: fault for typed, fault in faults.items() if fault}
    for typed, fault in bad.items():
        print(f"{typed}\n    {fault}")
    print(f"{len(faults)} mistakes, {len(bad)} bad answers")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
