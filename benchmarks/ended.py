"""How a script of this folder ends: a mistake of its user is one sentence, and exit code 2."""

import sys
from collections.abc import Callable

from pipeline.cli.command import USER_ERROR
from spire_core.errors import SpireError


def ended(main: Callable[[], int | None]) -> int:
    """Return a script's exit code; a SpireError, or a file that cannot be used, is a sentence."""
    try:
        return main() or 0
    except SpireError as error:
        print(error, file=sys.stderr)
    except OSError as error:
        print(f"expected files that can be used, got {error}: correct their names", file=sys.stderr)
    return USER_ERROR
