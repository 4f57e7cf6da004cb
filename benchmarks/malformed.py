"""How many malformed inputs the tests hand to the command, and what it answers.

    nice python benchmarks/malformed.py --out benchmarks/results/malformed.json

Runs tests/unit/run/cli/test_malformed.py and counts, for each of its tests, the commands that it
types in this process: settings, sweep and theory files, files of runs that are cut off, damaged, of
another kind or of a newer format, checkpoints, images and data sets. A refusal is exit code 2 with
one sentence, which the tests check. Exit code 0 only if no test fails.
"""

import argparse
import functools
import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.files.revision import git_revision

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests" / "unit" / "run" / "cli" / "test_malformed.py"
ANSWERS = {0: "taken", 1: "waiting", 2: "refused"}  # by exit code


class Counting:
    """A plugin of pytest that counts commands and their exit codes, by test."""

    def __init__(self) -> None:
        self.counts = Counter[tuple[str, str]]()
        self.num_failed = 0
        self.test = ""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        for module in {item.module for item in items}:
            module.answer = self.counted(module.answer)

    def counted(self, answer: Callable[..., tuple[int, str]]) -> Callable[..., tuple[int, str]]:
        """Return the tests' function that types a command, with a count of its exit codes."""

        @functools.wraps(answer)
        def count(*argv: str, **keywords: Any) -> tuple[int, str]:
            code, told = answer(*argv, **keywords)
            self.counts[self.test, ANSWERS[code]] += 1
            return code, told

        return count

    def pytest_runtest_setup(self, item: Any) -> None:
        self.test = item.originalname

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.num_failed += report.failed


def main() -> int:
    """Run the tests and write the file; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    counting = Counting()
    code = pytest.main(["-q", "-n", "0", "-p", "no:cacheprovider", str(TESTS)], [counting])
    totals, tests = Counter[str](), dict[str, dict[str, int]]()
    for (test, answer), count in counting.counts.items():
        totals[answer] += count
        tests.setdefault(test, {})[answer] = count
    about: dict[str, Any] = {"command": "benchmarks/malformed.py", "commit": git_revision()}
    about |= {"system": platform.platform(), "cores": os.cpu_count()}
    about |= {"num_commands": totals.total(), "num_failed_tests": counting.num_failed, **totals}
    args.out.write_text(json.dumps({**about, "tests": tests}, indent=1) + "\n")
    print(json.dumps(about))
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
